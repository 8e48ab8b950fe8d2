//! **A** Where everything is: the checkout, the state of its cluster, the cache that all checkouts share.
//!
//! ```text
//! target/rig/                 the state: gone with `cargo clean`, emptied by `down` except for log/
//!   log/NAME.log              what each part and each step said
//!   parts/NAME.json           which process each part is
//!   pki/ conf/                keys, certificates, kubeconfigs, settings
//!   etcd/ kubelet/ containerd/ s3/ volumes/
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
    /// The name of the network namespace and of the cgroup root, which no other checkout on this machine has.
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
        let hash = short_hash(target.as_os_str().as_encoded_bytes());
        let mut state = target.join("rig");
        if state.as_os_str().len() > LONGEST_STATE {
            state = Path::new("/var/lib/ubo-rig").join(&hash);
        }
        #[expect(clippy::disallowed_methods, reason = "the rig's one look at the environment for folders")]
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        Ok(Place {
            checkout,
            program,
            target,
            tuple,
            state,
            cache: home.join(".cache/ubo-rig"),
            name: format!("ubo-{hash}"),
        })
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
