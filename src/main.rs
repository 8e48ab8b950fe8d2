//! **W** `ubo`: operator, command line and offline restorer in one binary.

use std::process::ExitCode;
use ubo::args::Args;

fn main() -> ExitCode {
    // The one provider of cryptography, before anything can ask for it: kube and the destinations share it.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("ubo: a provider of cryptography was installed already; please report this");
        return ExitCode::FAILURE;
    }
    ExitCode::from(ubo::cli::run(Args::of_process()))
}
