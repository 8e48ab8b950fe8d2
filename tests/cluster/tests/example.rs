//! The example of the documentation end to end, by the same acts as `cargo rig demo`: the BackupJob unchanged, a copy that
//! the clock fires, a run by hand, the way back with `zstd -d | tar x` into an empty PostgreSQL.

use anyhow::{Result, ensure};
use rig::Cluster;
use rig::example::{COPY, EMPTY, Example, JOB, POSTGRES};

#[test]
fn the_example_from_its_schedule_to_restored_rows() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let example = Example::new(&cluster);
    example.install()?;
    example.clear()?;
    example.start_postgres(POSTGRES)?;
    let rows = example.fill()?;
    ensure!(rows.starts_with("20000 rows, md5 ") && rows.ends_with(", owner clerk"), "{rows}");
    example.opt_in()?;

    let next = example.apply_job()?;
    ensure!(next.at.ends_with("T02:00:00Z"), "the next run of `0 2 * * *` is at {}", next.at);
    // The second database starts while the first waits for its minute.
    let tick = example.apply_copy()?;
    example.start_postgres(EMPTY)?;
    let fired = example.ended(&tick.run)?;
    example.suspend_copy()?;
    ensure!(fired.phase == "Succeeded", "{fired:?}");
    ensure!(fired.folder.starts_with(&format!("default/{COPY}/{}-", tick.run)), "{fired:?}");

    let by_hand = example.ended(&example.run_by_hand()?)?;
    ensure!(by_hand.phase == "Succeeded", "{by_hand:?}");
    ensure!(by_hand.folder.starts_with(&format!("default/{JOB}/{}-", by_hand.name)), "{by_hand:?}");
    let status = example.status()?;
    for name in [JOB, COPY, &by_hand.name, &tick.run] {
        ensure!(status.contains(name), "kubectl get does not show {name}:\n{status}");
    }
    let listed = example.list()?;
    for name in [&by_hand.name, &tick.run] {
        ensure!(listed.contains(name.as_str()), "ubo list does not show {name}:\n{listed}");
    }

    for run in [&fired, &by_hand] {
        let dump = example.read_back(run)?;
        let text = std::fs::read_to_string(&dump)?;
        ensure!(text.contains("PostgreSQL database cluster dump complete"), "the dump of {} has no end", run.name);
    }
    let dump = example.read_back(&by_hand)?;
    ensure!(example.is_empty(EMPTY)?, "the second database is not empty before the restore");
    example.restore(&dump, EMPTY)?;
    ensure!(example.digest(EMPTY)? == rows, "the rows differ");
    example.clear()
}
