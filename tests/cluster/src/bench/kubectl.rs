//! **A** kubectl in one namespace, as the benchmarks use it: with input, and as a watch whose lines have a time.

use anyhow::{Context, Result, anyhow, ensure};
use chrono::{DateTime, Utc};
use rig::{Cluster, remove_folder};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// This machine's clock, which is the operator's, too.
#[expect(clippy::disallowed_methods, reason = "the rig measures by the clock of the machine")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// kubectl, in a namespace.
#[derive(Clone, Copy)]
pub struct Kubectl<'a> {
    /// Of which cluster.
    pub cluster: &'a Cluster,
    /// Where, unless the arguments say otherwise.
    pub namespace: &'a str,
}

impl Kubectl<'_> {
    /// A kubectl that was given nothing yet but its namespace.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.cluster.kubectl);
        command.env("KUBECONFIG", &self.cluster.kubeconfig).args(["--namespace", self.namespace]);
        command
    }

    /// What it prints; an exit code other than 0 is an error with its words.
    pub fn run(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let input = input.to_owned();
        let feed = thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), said.trim());
        feed.join().map_err(|_| anyhow!("the writer of kubectl's input ended in a fault"))??;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The namespace, made anew and opted in to backups.
    pub fn opted_in(&self) -> Result<()> {
        self.run(&["create", "namespace", self.namespace], "")?;
        let opt_in = self.cluster.checkout.join("manifests/namespace.yaml").display().to_string();
        self.run(&["apply", "-f", &opt_in], "").map(drop)
    }

    /// The namespace and all in it are gone, and what was stored below its name.
    pub fn clear(&self) -> Result<()> {
        self.run(&["delete", "namespace", self.namespace, "--ignore-not-found", "--timeout=900s"], "")?;
        self.clear_store()
    }

    /// What was stored below the namespace's name goes at once: disks are small.
    pub fn clear_store(&self) -> Result<()> {
        let s3 = &self.cluster.s3;
        remove_folder(&s3.folder.join(&s3.bucket).join(self.namespace))
    }

    /// Changes of all objects of a kind from now on, each as `path` (a JSONPath) prints it.
    pub fn watch(&self, what: &str, path: &str) -> Result<Watch> {
        let mut command = self.command();
        let path = format!("jsonpath={path}{{\"\\n\"}}");
        command.args(["get", what, "--watch-only", "-o", &path]);
        let mut kubectl = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(kubectl.stdout.take().context("no standard output")?).lines();
        let (sender, seen) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send((line, now())).is_err() {
                    return;
                }
            }
        });
        Ok(Watch { kubectl, seen })
    }
}

/// A watch that runs.
pub struct Watch {
    kubectl: Child,
    seen: mpsc::Receiver<(String, DateTime<Utc>)>,
}

impl Watch {
    /// The next change and when it was seen. An error: none came before `end`.
    pub fn next(&mut self, end: DateTime<Utc>) -> Result<(String, DateTime<Utc>)> {
        let left = (end - now()).to_std().unwrap_or(Duration::ZERO);
        self.seen.recv_timeout(left).context("nothing was seen in time")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill(); // it may have ended by itself
        let _ = self.kubectl.wait();
    }
}
