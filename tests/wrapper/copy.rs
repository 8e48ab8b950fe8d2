//! Copies by each kind of tar.

use crate::container::{Container, Outcome, Shell, eventually, in_each, program, session};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use ubo::error::Reason;
use ubo::source::wrapper::tar_words::Told;
use ubo::source::wrapper::{Plan, Verdict};
use ubo::validate::{Copy, DumpForm, Work};

fn plan(c: &Container, path: &str, exclude: &[&str]) -> Plan {
    let mut plan = Container::plan(DumpForm::Stdout, "");
    plan.work = Work::Copy(Copy {
        path: c.path(path).to_str().unwrap().to_owned(),
        include: Vec::new(),
        exclude: exclude.iter().map(|pattern| (*pattern).to_owned()).collect(),
        fail_on_change: false,
        allow_live_database: false,
    });
    plan
}

fn copy(c: &Container, path: &str) -> Outcome {
    c.run(&plan(c, path, &[]))
}

/// In each shell with its own tar, and once more with libarchive's.
pub(crate) fn with_each_tar(test: impl Fn(&Container) + Sync) {
    in_each(&test);
    let c = Container::new(Shell::DashBesideBash);
    c.replace("tar", "bsdtar");
    test(&c);
}

/// A tar that does something before or after the real one.
pub(crate) fn sham_tar(c: &Container, before: &str, after: &str) {
    let real = fs::read_link(c.path("bin/tar")).unwrap();
    fs::remove_file(c.path("bin/tar")).unwrap();
    let real = if real.ends_with("busybox") { format!("{} tar", real.display()) } else { real.display().to_string() };
    let script = format!(
        "#!{}\ncase \"$*\" in *--version*|*/dev/null*) exec {real} \"$@\" ;; esac\n{before}\n{real} \"$@\"\ncode=$?\n{after}\n\
         exit $code\n",
        program("dash").display()
    );
    fs::write(c.path("bin/tar"), script).unwrap();
    Command::new("chmod").arg("755").arg(c.path("bin/tar")).status().unwrap();
}

#[test]
fn a_folder_is_packed_whole_with_names_from_it_on() {
    with_each_tar(|c| {
        let long = "n".repeat(120);
        fs::create_dir_all(c.path("data/a").join(&long).join(&long).join(&long)).unwrap();
        fs::write(c.path("data/a").join(&long).join(&long).join(&long).join("deep"), "deep").unwrap();
        fs::write(c.path("data/.hidden"), "x").unwrap();
        fs::write(c.path("data/two words"), "x").unwrap();
        fs::hard_link(c.path("data/.hidden"), c.path("data/same")).unwrap();
        symlink("/elsewhere", c.path("data/link")).unwrap();
        let out = copy(c, "data");
        assert_eq!((out.verdict, out.reason), (Some(Verdict::Tar(0)), None), "{:?}: {out:?}", c.shell);
        let deep = format!("./a/{long}/{long}/{long}/deep");
        for name in ["./.hidden", "./two words", "./same", "./link", deep.as_str()] {
            assert!(out.names().iter().any(|there| there == name), "{:?}: {name}: {:?}", c.shell, out.names());
        }
        assert!(out.data.ends_with(&[0; 1024]), "end of archive");
        assert_eq!(out.told, Told::default(), "{:?}: {out:?}", c.shell);
        assert!(!out.log.contains("tar"), "{}", out.log);
    });
}

#[test]
fn a_file_is_packed_by_its_own_name_and_links_are_followed() {
    with_each_tar(|c| {
        fs::create_dir_all(c.path("data")).unwrap();
        fs::write(c.path("data/one"), "one").unwrap();
        symlink("data/one", c.path("to-file")).unwrap();
        symlink("data", c.path("to-folder")).unwrap();
        for (path, names) in
            [("data/one", &["./one"][..]), ("to-file", &["./to-file"]), ("to-folder", &["./one"]), ("data", &["./one"])]
        {
            let out = copy(c, path);
            assert_eq!(
                (out.verdict, out.names()),
                (Some(Verdict::Tar(0)), names.iter().map(|n| (*n).to_owned()).collect())
            );
            assert!(out.data.windows(3).any(|bytes| bytes == b"one"), "{:?}: {path}: the content", c.shell);
        }
    });
}

#[test]
fn a_path_that_is_not_there_and_a_tar_that_is_not_there() {
    with_each_tar(|c| {
        symlink("nowhere", c.path("dangling")).unwrap();
        for path in ["nothing", "dangling"] {
            let out = copy(c, path);
            assert_eq!((out.reason, out.data.len()), (Some(Reason::PathNotFound), 0), "{:?}: {out:?}", c.shell);
        }
        fs::create_dir_all(c.path("data")).unwrap();
        assert_eq!(copy(c, "data").names(), [""; 0]);
        if c.shell == Shell::Busybox {
            return; // has it built in
        }
        c.remove("tar");
        let out = copy(c, "data");
        assert_eq!((out.reason, out.data.len()), (Some(Reason::TarMissing), 0), "{:?}: {out:?}", c.shell);
    });
}

#[test]
fn folders_that_are_left_out_are_not_read() {
    with_each_tar(|c| {
        fs::create_dir_all(c.path("data/cache/deep")).unwrap();
        fs::create_dir_all(c.path("data/a b")).unwrap();
        fs::write(c.path("data/cache/deep/x"), "x").unwrap();
        fs::write(c.path("data/a b/x"), "x").unwrap();
        fs::write(c.path("data/file"), "x").unwrap();
        // Others by the same names, elsewhere, are wanted.
        for other in ["data/sub/cache", "data/sub/a b"] {
            fs::create_dir_all(c.path(other)).unwrap();
            fs::write(c.path(other).join("y"), "y").unwrap();
        }
        // A file by the name of what should be a folder is packed: whether it is wanted is decided elsewhere.
        let out = c.run(&plan(c, "data", &["/cache/", "/a b/", "/file/", "*.tmp"]));
        if c.shell == Shell::Busybox {
            assert_eq!(out.verdict, Some(Verdict::Tar(0)), "{out:?}");
            return; // Debian's cannot leave anything out
        }
        let left = ["./file", "./sub/", "./sub/a b/", "./sub/a b/y", "./sub/cache/", "./sub/cache/y"];
        assert_eq!(out.names(), left, "{:?}: {out:?}", c.shell);
        assert_eq!(out.verdict, Some(Verdict::Tar(0)));
        // What patterns mean to a tar that nobody knows, nobody knows: it is asked for everything.
        let real = fs::read_link(c.path("bin/tar")).unwrap();
        c.script("tar", &format!("case $1 in --version) echo tar 1 ;; *) exec {} \"$@\" ;; esac", real.display()));
        let names = c.run(&plan(c, "data", &["/cache/"])).names();
        assert!(
            names.contains(&"./cache/deep/x".to_owned()) && names.contains(&"./sub/cache/y".to_owned()),
            "{names:?}"
        );
    });
}

#[test]
fn what_changes_is_told_apart_from_what_cannot_be_read() {
    // Changed under the hands of a tar that tells nothing: names, sizes and times of all files do.
    let c = Container::new(Shell::DashBesideBash);
    c.replace("tar", "bsdtar");
    fs::create_dir_all(c.path("data")).unwrap();
    fs::write(c.path("data/log"), "x").unwrap();
    sham_tar(&c, "", &format!("echo more >> {}", c.path("data/log").display()));
    let out = copy(&c, "data");
    assert!(out.told.changed.is_some() && out.told.unread.is_none() && !out.told.blind, "{out:?}");
    in_each(|c| {
        for (said, code, unread, changed) in [
            ("tar: ./log: file changed as we read it", 1, false, true),
            ("tar: ./log: No such file or directory", 1, false, true),
            ("tar: ./log: Permission denied", 1, true, false),
            ("tar: ./log: Cannot open: Permission denied", 2, true, false),
            ("", 1, true, false),
            ("tar: ./log: Warning: Cannot open: Permission denied", 0, true, false),
        ] {
            if c.shell == Shell::Busybox {
                return; // has it built in, and asks nobody else
            }
            let fresh = Container::new(c.shell);
            fs::create_dir_all(fresh.path("data")).unwrap();
            fs::write(fresh.path("data/log"), "x").unwrap();
            sham_tar(&fresh, &format!("echo '{said}' >&2"), &format!("code={code}"));
            let out = copy(&fresh, "data");
            assert_eq!(out.verdict, Some(Verdict::Tar(code)), "{out:?}");
            assert_eq!((out.told.unread.is_some(), out.told.changed.is_some()), (unread, changed), "{said}: {out:?}");
        }
    });
}

#[test]
fn a_tar_that_dies_is_no_copy() {
    in_each(|c| {
        if c.shell == Shell::Busybox {
            return; // has it built in
        }
        fs::create_dir_all(c.path("data")).unwrap();
        fs::write(c.path("data/log"), "x").unwrap();
        sham_tar(c, "echo half; kill -9 $$", "");
        let out = copy(c, "data");
        assert_eq!((out.verdict, out.reason), (Some(Verdict::Tar(137)), Some(Reason::ArchiveTruncated)), "{out:?}");
    });
}

#[test]
fn without_tools_to_compare_it_says_that_it_is_blind() {
    let c = Container::new(Shell::Dash);
    c.replace("tar", "bsdtar");
    c.remove("find");
    fs::create_dir_all(c.path("data")).unwrap();
    fs::write(c.path("data/x"), "x").unwrap();
    let out = copy(&c, "data");
    assert!(out.told.blind && out.told.changed.is_none() && out.names() == ["./x"], "{out:?}");
}

#[test]
fn when_the_reader_goes_tar_goes() {
    with_each_tar(|c| {
        fs::create_dir_all(c.path("data")).unwrap();
        let big = fs::File::create(c.path("data/big")).unwrap();
        for n in 0..400_u64 {
            std::os::unix::fs::FileExt::write_at(&big, b"x", n << 20).unwrap();
        }
        let mut child = c.start(&plan(c, "data", &[]));
        let mut out = child.stdout.take().unwrap();
        let mut some = [0; 512];
        std::io::Read::read_exact(&mut out, &mut some).unwrap();
        drop((child.stdin.take(), out, child.stderr.take()));
        assert!(!child.wait().unwrap().success());
        eventually("nothing of the session is left", || session(child.id()).is_empty());
    });
}

#[test]
fn holes_are_left_out_only_where_it_is_known_that_they_are_holes() {
    for shell in [Shell::Dash, Shell::Bash] {
        let c = Container::new(shell);
        let long = 8 << 20;
        fs::create_dir_all(c.path("data/out")).unwrap();
        let part = fs::File::create(c.path("data/part")).unwrap();
        std::os::unix::fs::FileExt::write_at(&part, b"x", long - 1).unwrap();
        let size = |c: &Container, exclude: &[&str]| {
            let out = c.run(&plan(c, "data", exclude));
            assert_eq!(out.verdict, Some(Verdict::Tar(0)), "{out:?}");
            assert!(out.data.contains(&b'x'), "{out:?}");
            out.data.len() as u64
        };
        fs::write(c.path("data/empty"), "").unwrap();
        assert!(size(&c, &[]) < long, "{shell:?}: its hole is left out");
        // A file without any block may have content, on file systems that count none.
        fs::File::create(c.path("data/out/whole")).unwrap().set_len(long).unwrap();
        assert!(size(&c, &[]) > 2 * long, "{shell:?}: both come whole");
        // Unless it is not wanted anyway.
        assert!(size(&c, &["/out/"]) < long, "{shell:?}");
        // It alone, by its name and by a link.
        symlink("data/out/whole", c.path("link")).unwrap();
        for path in ["data/out/whole", "link"] {
            assert!(copy(&c, path).data.len() as u64 > long, "{shell:?}: {path}");
        }
        fs::remove_file(c.path("data/out/whole")).unwrap();
        assert!(size(&c, &[]) < long, "{shell:?}");
        // Whatever is not GNU's find, or does not come to its end, is not believed.
        let real = fs::read_link(c.path("bin/find")).unwrap();
        let version = format!("case $1 in --version) exec {} --version ;; esac", real.display());
        for sham in ["echo 8; exit 1", "echo 8; echo 0; echo 8", "kill -9 $$"] {
            c.script("find", &format!("{version}\n{sham}"));
            assert!(size(&c, &[]) > long, "{shell:?}: {sham}");
        }
        c.script("find", "case $1 in --version) exit 1 ;; esac; echo 8");
        assert!(size(&c, &[]) > long, "{shell:?}: another find");
        c.remove("find");
        assert!(size(&c, &[]) > long, "{shell:?}: no find");
    }
}

#[test]
fn what_the_environment_tells_tar_is_not_for_ours() {
    in_each(|c| {
        let mut c = Container::new(c.shell);
        c.environment = vec![("TAR_OPTIONS", "--exclude=precious")];
        fs::create_dir_all(c.path("data")).unwrap();
        fs::write(c.path("data/precious"), "x").unwrap();
        assert_eq!(copy(&c, "data").names(), ["./precious"], "{:?}", c.shell);
        // What the user's own command calls is the user's business.
        let out = c.directory("echo \"$TAR_OPTIONS\"; echo x > /backup/precious");
        assert_eq!(
            (out.names(), out.log.trim()),
            (vec!["./precious".to_owned()], "--exclude=precious"),
            "{:?}",
            c.shell
        );
    });
}
