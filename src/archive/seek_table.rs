//! **P** The zstd seekable format's table.
