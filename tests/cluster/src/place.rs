//! **A** Where everything is: the checkout, the state of its cluster, the cache that all checkouts share.
//!
//! ```text
//! target/rig/                 the state: gone with `cargo clean`, emptied by `down` except for log/
//!   log/NAME.log              what each part and each step said
//!   parts/NAME.json           which process each part is
//!   pki/ conf/                keys, certificates, kubeconfigs, settings
//!   etcd/ kubelet/ containerd/ s3/ volumes/
//! target/rig-2/ rig-3/        the same of further clusters, which the run of all tests has beside it
//! ~/.cache/ubo-rig/           built Go programs and images, each below a hash of what it is made from
//! ```

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The node's address inside the network namespace: pods reach the S3 server and listeners of tests there.
pub const NODE: &str = "192.168.127.2";
/// A second address of the node, which CoreDNS has for itself.
pub const DNS: &str = "192.168.127.10";
/// Where the API server listens.
pub const API_PORT: u16 = 6443;
/// Where the S3 server listens.
pub const S3_PORT: u16 = 7070;
/// The bucket that `up` makes.
pub const BUCKET: &str = "my-bucket";

/// So many clusters a checkout may have at once. What most tests wait for is time, and each cluster has its own.
pub const CLUSTERS: u8 = 3;
/// The variable that says which of them is meant: a test that restarts a part restarts that of its own cluster.
pub const NUMBER: &str = "UBO_RIG_CLUSTER";

/// A Unix socket's path may have 107 bytes (`sun_path`, unix(7)); the longest below the state is the kubelet's
/// `kubelet/pod-resources/kubelet.sock`, 35 bytes.
const LONGEST_STATE: usize = 70;

/// The folders of this checkout's cluster.
pub struct Place {
    /// The repository.
    pub checkout: PathBuf,
    /// This program, as it was called: a build that replaces the file while it runs leaves the kernel's own name of it
    /// (`/proc/self/exe`) with ` (deleted)` at its end.
    pub program: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
    /// The host's target tuple, such as `x86_64-unknown-linux-gnu`: the folder's name below `target`.
    pub tuple: String,
    /// The cluster's state.
    pub state: PathBuf,
    /// What is built once for all checkouts.
    pub cache: PathBuf,
    /// Which of this checkout's clusters: 1 is the one that people use.
    pub number: u8,
    /// The name of the network namespace and of the cgroup root, which no other cluster on this machine has.
    pub name: String,
}

impl Place {
    /// The place of the checkout that this program was built from.
    pub fn here() -> Result<Place> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .context("the package is not in tests/cluster of a checkout")?
            .to_owned();
        // <target>/<tuple>/<profile>/rig, because .cargo/config.toml always names a target.
        let program = std::env::current_exe()?;
        let profile = program.parent().context("this program has no folder")?;
        let by_tuple = profile.parent().context("this program is not in a target folder")?;
        let target = by_tuple.parent().context("this program is not in a target folder")?.to_owned();
        let tuple = by_tuple.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if !tuple.contains('-') {
            bail!("{} does not lie in <target>/<tuple>/<profile>: run it as `cargo rig`", program.display());
        }
        #[expect(clippy::disallowed_methods, reason = "the rig's one look at the environment for folders")]
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        let cache = home.join(".cache/ubo-rig");
        let first =
            Place { checkout, program, target, tuple, state: PathBuf::new(), cache, number: 1, name: String::new() };
        #[expect(clippy::disallowed_methods, reason = "the rig's one look at the environment for its cluster")]
        let number = std::env::var(NUMBER).ok();
        match number {
            None => Ok(first.numbered(1)),
            Some(text) => match text.parse() {
                Ok(number) if (1..=CLUSTERS).contains(&number) => Ok(first.numbered(number)),
                _ => bail!("{NUMBER}={text}: clusters are counted from 1 to {CLUSTERS}"),
            },
        }
    }

    /// The place of another cluster of this checkout.
    pub fn numbered(&self, number: u8) -> Place {
        let mut of = self.target.as_os_str().as_encoded_bytes().to_vec();
        let mut state = self.target.join("rig");
        if number > 1 {
            // Another hash, and not the first one's with an ending: what is ours is told by how its name begins.
            of.extend([0, number]);
            state = self.target.join(format!("rig-{number}"));
        }
        let hash = short_hash(&of);
        if state.as_os_str().len() > LONGEST_STATE {
            state = Path::new("/var/lib/ubo-rig").join(&hash);
        }
        Place {
            checkout: self.checkout.clone(),
            program: self.program.clone(),
            target: self.target.clone(),
            tuple: self.tuple.clone(),
            state,
            cache: self.cache.clone(),
            number,
            name: format!("ubo-{hash}"),
        }
    }

    /// A folder of the state, made if absent.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.state.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// Where a step or part of this name logs.
    pub fn log(&self, name: &str) -> Result<PathBuf> {
        Ok(self.folder("log")?.join(format!("{name}.log")))
    }

    /// The kubeconfig of `user`: `admin` for tests, one more for each component.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.state.join("conf").join(format!("{user}.conf"))
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    /// Where the network namespace is bound.
    pub fn netns_file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A link to the Kubernetes binary, which knows by this name that it is kubectl.
    pub fn kubectl(&self) -> PathBuf {
        self.state.join("bin/kubectl")
    }

    /// Where the S3 server answers, inside the network namespace.
    pub fn s3_endpoint() -> String {
        format!("http://{NODE}:{S3_PORT}")
    }
}

/// The first eight hexadecimal digits of the SHA-256 of `bytes`: enough for a name.
pub fn short_hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..4])
}

/// Bytes as lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{CLUSTERS, Place};
    use std::path::PathBuf;

    #[test]
    fn clusters_of_one_checkout_share_nothing_but_what_is_built() {
        for target in ["/short/target", "/a/path/that/is/much/too/long/for/the/sockets/that/are/to/lie/below/it/target"]
        {
            let first = Place {
                checkout: PathBuf::from("/checkout"),
                program: PathBuf::from("/rig"),
                target: PathBuf::from(target),
                tuple: "x-y".to_owned(),
                state: PathBuf::new(),
                cache: PathBuf::from("/cache"),
                number: 1,
                name: String::new(),
            }
            .numbered(1);
            for number in 2..=CLUSTERS {
                let other = first.numbered(number);
                assert!(!other.name.starts_with(&first.name) && !first.name.starts_with(&other.name));
                assert!(!other.state.starts_with(&first.state) && !first.state.starts_with(&other.state));
                assert_eq!((other.number, &other.cache), (number, &first.cache));
                assert_eq!(
                    (other.numbered(1).name, other.numbered(1).state),
                    (first.name.clone(), first.state.clone())
                );
            }
        }
    }
}
