//! Diagnostics for a test that timed out: the kernel state of the tasks that may block it.

use std::{fmt::Write as _, fs, path::Path};

/// Returns a report of all tasks of our own programs and of all other tasks that run or wait in the
/// kernel, with their system call and stack, then the last lines of all instances' logs.
pub fn report() -> String {
    let mut text = String::new();
    for process in numbered("/proc") {
        for task in numbered(&format!("{process}/task")) {
            let Some(description) = describe(&task) else { continue };
            text += &description;
        }
    }
    for instance in entries("/run/vswitch") {
        for log in entries(&instance).into_iter().filter(|path| path.ends_with(".log")) {
            let lines = fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = lines.lines().rev().take(20).collect();
            for line in last.iter().rev() {
                let _infallible = writeln!(text, "{log}: {line}");
            }
        }
    }
    text
}

/// Describes a task if it may be the reason for the timeout.
fn describe(task: &str) -> Option<String> {
    let read = |file: &str| fs::read_to_string(Path::new(task).join(file)).unwrap_or_default();
    let (comm, stat) = (read("comm"), read("stat"));
    // proc(5): the state is the first field behind the name in brackets.
    let state = stat.rsplit(") ").next()?.chars().next()?;
    let ours = comm.starts_with("vswitch") || comm.starts_with("tokio");
    if !ours && !matches!(state, 'D' | 'R') {
        return None;
    }
    let mut text = format!("{task} {} {state} syscall {}", comm.trim(), read("syscall"));
    for line in read("stack").lines() {
        let _infallible = writeln!(text, "    {line}");
    }
    Some(text)
}

fn numbered(directory: &str) -> Vec<String> {
    let is_number =
        |path: &String| path.rsplit('/').next().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
    entries(directory).into_iter().filter(is_number).collect()
}

fn entries(directory: &str) -> Vec<String> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    found.map(|entry| entry.path().to_string_lossy().into_owned()).collect()
}
