//! What keeps a machine busy, for the test that has waited in vain: where each task is in the kernel.

use std::{fmt::Write as _, fs, path::Path};

/// Tasks of our own programs, and all others that run or wait for the kernel, with what each is at; then the logs.
pub fn everything() -> String {
    let mut text = String::new();
    for process in numbered("/proc") {
        for task in numbered(&format!("{process}/task")) {
            let Some(told) = told(&task) else { continue };
            text += &told;
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

/// A task, if it may be why nothing goes on.
fn told(task: &str) -> Option<String> {
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
