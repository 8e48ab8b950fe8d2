//! **A** A client with the rights of the namespace's ServiceAccount.
