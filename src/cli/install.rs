//! **W** `ubo install`: what is applied to a cluster.

use super::{GOOD, print};
use crate::api::names::Namespace;
use crate::error::Failure;
use crate::install::{DEFAULT_IMAGE, manifests, opt_in};

/// Print what is installed in a cluster: `ubo install | kubectl apply --server-side -f -`
#[derive(Clone, Debug, clap::Args)]
pub struct InstallArgs {
    /// Image of the operator
    #[arg(long, value_name = "IMAGE", default_value = DEFAULT_IMAGE, conflicts_with = "namespace")]
    pub image: String,
    /// Print instead what opts this namespace in
    #[arg(long, value_name = "NAMESPACE", value_parser = parse_namespace)]
    pub namespace: Option<Namespace>,
    /// The ServiceAccount in it whose rights backups use
    #[arg(long, value_name = "NAME", default_value = "backup-runner", requires = "namespace")]
    pub service_account: String,
}

fn parse_namespace(text: &str) -> Result<Namespace, String> {
    Namespace::new(text).map_err(|failure| failure.message)
}

/// Prints.
pub fn run(args: &InstallArgs) -> Result<u8, Failure> {
    print(&match &args.namespace {
        Some(namespace) => opt_in(Some(namespace), &args.service_account)?,
        None => manifests(&args.image)?,
    })?;
    Ok(GOOD)
}
