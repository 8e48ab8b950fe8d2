//! **A** What a person or a script asks of the cluster: which parts live, where things are, a command inside.

use crate::parts;
use crate::place::{API_PORT, BUCKET, NODE, NUMBER, Place};
use crate::process::Record;
use crate::{netns, operator_image, up};
use anyhow::{Result, bail};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Prints a line for each part. The exit code is 0 if all live, 3 if not.
pub fn print(place: &Place) -> Result<ExitCode> {
    let mut all = true;
    for part in parts::ALL {
        let record = Record::read(place, part);
        let lives = record.is_some_and(Record::lives);
        all &= lives;
        let how = match record {
            Some(record) if lives => format!("lives, pid {}", record.pid),
            Some(_) => format!("dead: see {}", place.log(part)?.display()),
            None => "not started".to_owned(),
        };
        println!("{part:<12} {:<40} {how}", parts::what(part));
    }
    println!("{:<12} {:<40} {}", "network", "the namespace", if netns::exists(place) { &place.name } else { "none" });
    Ok(ExitCode::from(if all { 0 } else { 3 }))
}

/// The variables that tests and people need.
pub fn variables(place: &Place) -> Result<Vec<(&'static str, String)>> {
    let keys = up::keys(place)?;
    let text = |path: PathBuf| path.display().to_string();
    Ok(vec![
        ("KUBECONFIG", text(place.kubeconfig("admin"))),
        ("UBO_RIG_KUBECTL", text(place.kubectl())),
        ("UBO_RIG_UBO", text(operator_image::binary(place, false))),
        ("UBO_RIG_RIG", text(place.program.clone())),
        ("UBO_RIG_NETNS", place.name.clone()),
        (NUMBER, place.number.to_string()),
        ("UBO_RIG_NODE", NODE.to_owned()),
        ("UBO_RIG_API", format!("{NODE}:{API_PORT}")),
        ("UBO_RIG_S3_ENDPOINT", Place::s3_endpoint()),
        ("UBO_RIG_S3_ACCESS_KEY", keys.access),
        ("UBO_RIG_S3_SECRET_KEY", keys.secret),
        ("UBO_RIG_S3_BUCKET", BUCKET.to_owned()),
        ("UBO_RIG_S3_FOLDER", text(place.state.join("s3"))),
        ("UBO_RIG_CHECKOUT", text(place.checkout.clone())),
        ("UBO_RIG_STATE", text(place.state.clone())),
    ])
}

/// The same for a shell to read.
pub fn exports(place: &Place) -> Result<String> {
    let lines = variables(place)?.into_iter().map(|(name, value)| {
        let quoted = value.replace('\'', r"'\''");
        format!("export {name}='{quoted}'\n")
    });
    Ok(lines.collect())
}

/// Runs a command inside the network namespace, with the variables, and returns its exit code.
pub fn inside(place: &Place, line: &[String]) -> Result<ExitCode> {
    let Some((program, arguments)) = line.split_first() else { bail!("which command?") };
    let status = netns::command(place, program).args(arguments).envs(variables(place)?).status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Whether a plain HTTP GET is answered with 200.
pub fn http_ok(address: &str, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split(' ').nth(1) == Some("200"))
    };
    ask().unwrap_or(false)
}
