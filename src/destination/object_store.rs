//! **A** S3, and folders on the command line, through OpenDAL.
