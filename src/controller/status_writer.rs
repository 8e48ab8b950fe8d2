//! **A** Writes status by server-side apply, through a bounded queue.
