//! The binary, as a person uses it, on folders and commands of this machine.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

#[path = "cli/each.rs"]
mod each;

/// A folder with something to back up, and a place to put it.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("sub/empty")).unwrap();
        std::fs::write(
            data.join("sub/large"),
            (0..3_000_000_u32).map(|i| (i.wrapping_mul(i) / 7).to_le_bytes()[1]).collect::<Vec<_>>(),
        )
        .unwrap();
        std::fs::write(data.join("config"), b"key = value\n").unwrap();
        std::fs::hard_link(data.join("config"), data.join("same")).unwrap();
        symlink("sub/large", data.join("pointer")).unwrap();
        Self { folder }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn uri(&self) -> String {
        format!("file://{}", self.at("backups").display())
    }

    /// `ubo` without whatever this machine's environment has for it.
    fn ubo(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ubo"))
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env_remove("UBO_LOG")
            .output()
            .unwrap()
    }

    /// Runs it, expects this exit code, and gives standard output.
    fn expect(&self, code: i32, args: &[&str]) -> String {
        let out = self.ubo(args);
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(code), "ubo {args:?}\n{stdout}\n{stderr}");
        stdout.into_owned()
    }

    fn json(&self, code: i32, args: &[&str]) -> serde_json::Value {
        let with: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
        serde_json::from_str(&self.expect(code, &with)).unwrap()
    }

    /// What a failed command says.
    fn error(&self, code: i32, args: &[&str]) -> String {
        let out = self.ubo(args);
        assert_eq!(out.status.code(), Some(code), "ubo {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    /// The only file of that name below the backups.
    fn stored(&self, name: &str) -> PathBuf {
        let mut found = Vec::new();
        let mut folders = vec![self.at("backups")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name() == Some(OsStr::new(name)) {
                    found.push(path);
                }
            }
        }
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found.remove(0)
    }
}

/// Everything about a tree that can be compared.
fn listing(root: &Path) -> String {
    let out = Command::new("find")
        .args([".", "-printf", "%P|%y|%m|%U|%G|%T@|%l|%n|%s\n"])
        .current_dir(root)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // A folder's size is the file system's business.
    let mut lines: Vec<&str> =
        text.lines().map(|line| if line.contains("|d|") { line.rsplit_once('|').unwrap().0 } else { line }).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn a_folder_goes_there_and_back() {
    let scene = Scene::new();
    let uri = scene.uri();
    let made = scene.json(0, &["backup", "--from", "data", "--to", &uri]);
    assert_eq!(made["phase"], "Succeeded");
    assert_eq!(made["files"], 3);
    let run = made["run"].as_str().unwrap();
    assert!(run.starts_with("data-20") && run.len() == "data-20260102-030405".len(), "{run}");

    let listed = scene.json(0, &["list", &uri]);
    assert_eq!(listed["archives"][0]["name"], "local/data");
    assert_eq!(listed["archives"][0]["backups"][0]["run"], run);
    assert_eq!(listed["archives"][0]["backups"][0]["outcome"], "Complete");
    assert!(scene.expect(0, &["list", &uri]).contains(run));

    assert_eq!(scene.json(0, &["verify", &uri])["files"], 3);
    assert!(scene.expect(0, &["verify", &uri, run]).contains("every digest agrees"));

    let restored = scene.json(0, &["restore", &uri, "--to", "restored"]);
    assert_eq!((&restored["phase"], &restored["run"]), (&"Succeeded".into(), &run.into()));
    assert_eq!(listing(&scene.at("data")), listing(&scene.at("restored")));
    assert_eq!(
        std::fs::read(scene.at("data/sub/large")).unwrap(),
        std::fs::read(scene.at("restored/sub/large")).unwrap()
    );

    // The archive's folder works as a uri too, and the text form says what to do next.
    assert!(scene.expect(0, &["list", &format!("{uri}/local/data")]).contains("local/data"));
    scene.expect(0, &["restore", &uri, "latest", "--to", "one", "--path", "sub/large"]);
    assert!(scene.at("one/sub/large").exists() && !scene.at("one/config").exists());
}

#[test]
fn no_tool_of_ours_is_needed_to_restore() {
    let scene = Scene::new();
    scene.expect(0, &["backup", "--from", "data", "--to", &scene.uri()]);
    std::fs::create_dir(scene.at("plain")).unwrap();
    let archive = scene.stored("archive.tar.zst");
    let line = "cat \"$1\"* | zstd -dc | tar -xp -C \"$2\"";
    let status = Command::new("sh").args(["-c", line, "sh"]).arg(archive).arg(scene.at("plain")).status().unwrap();
    assert!(status.success());
    assert_eq!(listing(&scene.at("data")), listing(&scene.at("plain")));
}

/// A pair of age's own tool: the file with the private key, and the public one.
fn pair(scene: &Scene, file: &str) -> String {
    let status = Command::new("age-keygen").arg("-o").arg(scene.at(file)).output().unwrap().status;
    assert!(status.success());
    let public = Command::new("age-keygen").arg("-y").arg(scene.at(file)).output().unwrap();
    String::from_utf8(public.stdout).unwrap().trim().to_owned()
}

#[test]
fn an_encrypted_backup_is_read_by_age_itself_and_by_us_with_either_key() {
    let scene = Scene::new();
    let uri = scene.uri();
    let (one, two, _) = (pair(&scene, "one.key"), pair(&scene, "two.key"), pair(&scene, "other.key"));
    let args = ["backup", "--from", "data", "--to", &uri, "--recipient", &one, "-r", &two];
    assert!(scene.expect(0, &args).contains("--identity FILE"));
    let archive = scene.stored("archive.tar.zst.age");
    std::fs::create_dir(scene.at("plain")).unwrap();
    let line = "set -eo pipefail; cat \"$1\"* | age -d -i \"$3\" | zstd -dc | tar -xp -C \"$2\"";
    let sh = |key: &str| {
        Command::new("bash")
            .args(["-c", line, "sh"])
            .arg(&archive)
            .arg(scene.at("plain"))
            .arg(scene.at(key))
            .output()
            .unwrap()
            .status
    };
    assert!(sh("two.key").success());
    assert_eq!(listing(&scene.at("data")), listing(&scene.at("plain")));
    assert!(!sh("other.key").success(), "a key of somebody else's opens it");

    let manifest = std::fs::read_to_string(scene.stored("manifest.json")).unwrap();
    assert!(manifest.contains(&one) && manifest.contains(&two) && !manifest.contains("AGE-SECRET-KEY"));
    let listed = scene.json(0, &["list", &uri]);
    assert_eq!(listed["archives"][0]["backups"][0]["encryptionRecipients"], serde_json::json!([one, two]));
    for (index, key) in ["one.key", "two.key"].iter().enumerate() {
        scene.expect(0, &["verify", &uri, "--identity", key]);
        let to = format!("restored-{index}");
        scene.expect(0, &["restore", &uri, "--identity", "other.key", "-i", key, "--to", &to]);
        assert_eq!(listing(&scene.at("data")), listing(&scene.at(&to)));
    }
    for args in [vec!["verify", &uri], vec!["restore", &uri, "--to", "x"]] {
        let error = scene.error(1, &args);
        assert!(error.contains("IdentityMissing") && error.contains(&one) && error.contains("--identity"), "{error}");
        let wrong: Vec<&str> = args.iter().copied().chain(["--identity", "other.key"]).collect();
        let error = scene.error(1, &wrong);
        assert!(error.contains("IdentityMissing") && error.contains("other recipients"), "{error}");
        let missing: Vec<&str> = args.iter().copied().chain(["--identity", "no.key"]).collect();
        assert!(scene.error(2, &missing).contains("--identity no.key cannot be read"));
        let nonsense: Vec<&str> = args.iter().copied().chain(["--identity", "data/config"]).collect();
        assert!(scene.error(2, &nonsense).contains("line 1 is not an age private key"));
    }
    assert!(!scene.at("x/config").exists());
    // A private key where a public one belongs is refused, and not repeated.
    let secret = std::fs::read_to_string(scene.at("one.key")).unwrap();
    let secret = secret.lines().last().unwrap();
    let error = scene.error(2, &["backup", "--from", "data", "--to", &uri, "--recipient", secret]);
    assert!(error.contains("private key") && !error.contains(secret), "{error}");

    // Cut short at the edge of one of age's blocks, with size and digest made to agree: still refused.
    let bytes = std::fs::read(&archive).unwrap();
    let last = (bytes.len() - 1) % (64 * 1024 + 16);
    for kept in [bytes.len() - last - 1, bytes.len() - last - 1 - (64 * 1024 + 16)] {
        std::fs::write(&archive, &bytes[..kept]).unwrap();
        let error = scene.error(1, &["verify", &uri, "--identity", "one.key"]);
        assert!(error.contains("BackupDamaged"), "{error}");
        assert!(!sh("one.key").success(), "age takes what was cut short");
    }
}

#[test]
fn an_archive_has_as_many_recipients_as_can_be_read_again() {
    let scene = Scene::new();
    let uri = scene.uri();
    let keys: Vec<String> = (0..17).map(|n| pair(&scene, &format!("{n}.key"))).collect();
    let all = |count: usize| {
        let recipients = keys[..count].iter().flat_map(|key| ["--recipient", key.as_str()]);
        ["backup", "--from", "data", "--to", &uri].into_iter().chain(recipients).collect::<Vec<_>>()
    };
    let error = scene.error(2, &all(17));
    assert!(error.contains("--recipient is given 17 times") && error.contains("at most 16"), "{error}");
    scene.expect(0, &all(16));
    scene.expect(0, &["restore", &uri, "--identity", "15.key", "--to", "restored"]);
    assert_eq!(listing(&scene.at("data")), listing(&scene.at("restored")));
}

#[test]
fn an_upload_is_slowed_down_and_whole() {
    let scene = Scene::new();
    let uri = scene.uri();
    // Noise does not shrink; how long it takes is tested with a clock that stands still, in throttle.rs.
    std::fs::write(
        scene.at("noise"),
        (0..7_000_000_u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[6]).collect::<Vec<_>>(),
    )
    .unwrap();
    let args = ["backup", "--command", "cat noise", "--name", "slow", "--to", &uri, "--bandwidth-limit", "3Mi"];
    scene.expect(0, &args);
    scene.expect(0, &["verify", &uri]);
    for (limit, word) in [("0", "nothing would ever be sent"), ("fast", "not a size")] {
        assert!(scene.error(2, &[&args[..8], &[limit]].concat()).contains(word));
    }
}

/// `ubo` under the name by which kubectl finds it.
#[test]
fn it_is_a_plug_in_of_kubectl_by_its_name() {
    let scene = Scene::new();
    symlink(env!("CARGO_BIN_EXE_ubo"), scene.at("kubectl-backup")).unwrap();
    let plugin = |args: &[&str]| {
        let out = Command::new(scene.at("kubectl-backup"))
            .args(args)
            .current_dir(scene.folder.path())
            .env_remove("KUBECONFIG")
            .env("HOME", scene.folder.path())
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        (out.status.code(), said)
    };
    let (code, said) = plugin(&["--help"]);
    assert!(code == Some(0) && said.contains("Usage: kubectl backup") && said.contains("accept"), "{said}");
    let (code, said) = plugin(&["install"]);
    assert!(code == Some(2) && said.contains("unrecognized subcommand"), "{said}");
    let (code, said) = plugin(&["describe", "pg", "-A"]);
    assert!(code == Some(2) && said.contains("-n"), "{said}");
    let (code, said) = plugin(&["list"]);
    assert!(code == Some(1) && said.contains("set KUBECONFIG"), "{said}");
    let (code, said) = plugin(&["list", "--kubeconfig", "nowhere"]);
    assert!(code == Some(1) && said.contains("--kubeconfig nowhere"), "{said}");
    // A server that is not there: closed at once, on a port that nobody listens to.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x", "namespace": "shop"}}],
        "users": [{"name": "x", "user": {}}],
    });
    std::fs::write(scene.at("config"), config.to_string()).unwrap();
    let (code, said) = plugin(&["status", "--kubeconfig", "config"]);
    assert!(code == Some(1) && said.contains("cannot be reached"), "{said}");
    let (code, said) = plugin(&["status", "--kubeconfig", "config", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(code == Some(1) && document["error"]["reason"] == "ClusterUnavailable", "{said}");
    let (code, said) = plugin(&["run", "pg", "--kubeconfig", "config", "--context", "y"]);
    assert!(code == Some(1) && said.contains("kubectl config get-contexts"), "{said}");
}

#[test]
fn a_commands_output_goes_there_and_back() {
    let scene = Scene::new();
    let uri = scene.uri();
    scene.expect(0, &["backup", "--command", "cat data/sub/large | cat", "--name", "dump", "--to", &uri]);
    let out = scene.ubo(&["restore", &uri, "--to", "-"]);
    assert!(out.status.success());
    assert!(out.stdout == std::fs::read(scene.at("data/sub/large")).unwrap());
    scene.expect(0, &["restore", &uri, "--to", "out"]);
    assert!(std::fs::read(scene.at("out/dump")).unwrap() == out.stdout);

    for (command, word) in [
        ("echo half; echo 'no such table' >&2; exit 3", "exit code 3: no such table"),
        ("false | cat", "CommandFailed"),
        ("true", "EmptyBackup"),
    ] {
        let error = scene.error(1, &["backup", "--command", command, "--name", "bad", "--to", &uri]);
        assert!(error.contains(word), "{command}: {error}");
    }
    let failed = scene.json(1, &["backup", "--command", "exit 7", "--name", "bad", "--to", &uri]);
    assert_eq!((&failed["error"]["reason"], &failed["error"]["exitCode"]), (&"CommandFailed".into(), &7.into()));
    // Nothing of those is listed, and nothing of them is left but whose folder it is.
    assert!(!scene.expect(0, &["list", &uri]).contains("bad"));
    assert_eq!(std::fs::read_dir(scene.at("backups/local/bad")).unwrap().count(), 1);
    scene.expect(0, &["backup", "--command", "true", "--name", "bad", "--allow-empty", "--to", &uri]);
}

#[test]
fn what_cannot_be_read_makes_it_incomplete() {
    let scene = Scene::new();
    let uri = scene.uri();
    let _socket = std::os::unix::net::UnixListener::bind(scene.at("data/socket")).unwrap();
    let out = scene.ubo(&["backup", "--from", "data", "--to", &uri]);
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("./socket (a socket)"));
    let listed = scene.json(0, &["list", &uri]);
    let backup = &listed["archives"][0]["backups"][0];
    assert_eq!((&backup["outcome"], &backup["reason"]), (&"Incomplete".into(), &"SourceIncomplete".into()));
    // `latest` never takes it silently; by its name it can be had.
    let run = backup["run"].as_str().unwrap();
    let error = scene.error(1, &["restore", &uri, "--to", "x"]);
    assert!(error.contains("no complete backup") && error.contains(run), "{error}");
    scene.expect(3, &["verify", &uri, run]);
    scene.expect(0, &["restore", &uri, run, "--to", "y"]);
    assert!(scene.at("y/config").exists());
}

#[test]
fn damage_is_found_and_shown() {
    let scene = Scene::new();
    let uri = scene.uri();
    scene.expect(0, &["backup", "--from", "data", "--to", &uri]);
    let archive = scene.stored("archive.tar.zst");
    let mut bytes = std::fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&archive, &bytes).unwrap();
    let error = scene.error(1, &["verify", &uri]);
    assert!(error.contains("BackupDamaged"), "{error}");
    let error = scene.error(1, &["restore", &uri, "--to", "x"]);
    assert!(error.contains("BackupDamaged") && error.contains("is not the backup"), "{error}");
    // A manifest that cannot be read is shown, not dropped.
    std::fs::write(scene.stored("manifest.json"), b"{").unwrap();
    assert!(scene.expect(0, &["list", &uri]).contains("DAMAGED"));
    assert!(scene.error(1, &["verify", &uri]).contains("no complete backup"));
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let scene = Scene::new();
    let uri = scene.uri();
    scene.expect(0, &["backup", "--from", "data", "--to", &uri]);
    scene.expect(0, &["backup", "--command", "echo x", "--to", &uri]);
    let missing = format!("file://{}", scene.at("missing").display());
    let inside = format!("file://{}", scene.at("data/backups").display());
    std::fs::create_dir(scene.at("full")).unwrap();
    std::fs::write(scene.at("full/file"), b"x").unwrap();
    let cases: &[(i32, &[&str], &str)] = &[
        (2, &["backup", "--to", &uri], "--from"),
        (2, &["backup", "--from", "data", "--to", "backups"], "scheme"),
        (2, &["backup", "--from", "data", "--to", &inside], "contain itself"),
        (2, &["backup", "--from", "data", "--to", &uri, "--option", "region=x"], "no options"),
        (1, &["backup", "--from", "nothing", "--name", "x", "--to", &uri], "SourceUnavailable"),
        (1, &["backup", "--from", "data", "--to", "s3://bucket/x"], "AWS_ACCESS_KEY_ID is missing"),
        (1, &["list", &missing], "DestinationNotFound"),
        (1, &["restore", &uri, "--to", "x"], "--archive: local/data, local/echo"),
        (1, &["restore", &uri, "nope", "--archive", "local/data", "--to", "x"], "ubo list"),
        (1, &["restore", &uri, "--archive", "local/data", "--to", "full"], "not empty"),
        (2, &["restore", &uri, "--archive", "local/data", "--to", "x", "--path", "../x"], ".."),
        (2, &["restore", &uri, "--archive", "local/data", "--to", "-", "--output", "json"], "standard output"),
    ];
    for (code, args, word) in cases {
        let out = scene.ubo(args);
        let said = format!("{}{}", String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout));
        assert_eq!(out.status.code(), Some(*code), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert!(!scene.at("x").exists());
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    use std::io::Read;
    let scene = Scene::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ubo"))
        .args(["backup", "--name", "endless", "--to", &scene.uri(), "--command", "echo started > mark; cat /dev/zero"])
        .current_dir(scene.folder.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !scene.at("mark").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("CancelRequested"), "{said}");
    let left: Vec<_> =
        std::fs::read_dir(scene.at("backups/local/endless")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["owner.json"]);
}
