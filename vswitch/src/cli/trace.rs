//! `trace`.

use super::arguments::Trace;
use super::failure::Failure;
use super::output::Output;
use crate::api::{Client, TraceRequest, TraceView};

pub async fn trace(client: &mut Client, arguments: Trace, output: Output) -> Result<(), Failure> {
    let Trace { from, network, to, frame, proto, sport, dport, vlan } = arguments;
    let request = TraceRequest { from, network, to, frame, proto, sport, dport, vlan };
    let trace: TraceView = client.post("/trace", &request).await?;
    output.print(&trace, text)?;
    match (trace.agrees, &trace.program.verdict) {
        (Some(false), Some(verdict)) => {
            let (program, explanation) = (&trace.program.name, &verdict.explanation);
            let message = format!(
                "THE LOADED PROGRAM {program} DECIDES DIFFERENTLY FROM THE CORE: {} ({explanation}), not {} (a bug, or a \
                 daemon of another version: restart it, and report the frame)",
                verdict.action, trace.verdict.action
            );
            Err(Failure::new("trace_disagrees", &message))
        }
        _ => Ok(()),
    }
}

fn text(trace: &TraceView) -> String {
    let TraceView { from, network, frame, steps, verdict, program, agrees } = trace;
    let mut text = format!("frame    {}\nfrom     {from}, in network {network}\n", frame.summary);
    let has_several_hooks = steps.iter().any(|step| step.hook != steps[0].hook);
    for (number, step) in (1..).zip(steps) {
        let hook = if has_several_hooks { format!("{}: ", step.hook) } else { String::new() };
        text += &format!("{number:>4}.    {hook}{}\n", step.text);
    }
    text += &format!("verdict  {}: {}\n", verdict.action, verdict.explanation);
    let program_result = match (agrees, &program.verdict, &program.note) {
        (Some(true), ..) => "decides the same".to_owned(),
        (_, Some(other), _) => format!("DECIDES DIFFERENTLY: {}: {}", other.action, other.explanation),
        (_, None, note) => {
            format!("was not run: {}", note.as_deref().unwrap_or("the kernel cannot run it on a test frame"))
        }
    };
    text + &format!("program  {} ({}) {program_result}\n", program.name, program.hook)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{TraceFrame, TraceProgram, TraceStep, TraceVerdict};

    fn verdict(action: &str) -> TraceVerdict {
        TraceVerdict {
            action: action.to_owned(),
            to: None,
            to_host: false,
            tag: None,
            reason: None,
            explanation: format!("it is {action}"),
            learns: false,
            snoops: false,
            storm: None,
        }
    }

    fn view(agrees: Option<bool>, program: Option<TraceVerdict>) -> TraceView {
        let step = |hook: &str, text: &str| TraceStep { hook: hook.to_owned(), text: text.to_owned() };
        TraceView {
            from: "web".to_owned(),
            network: "bridge".to_owned(),
            frame: TraceFrame { summary: "a frame".to_owned(), bytes: 0, hex: String::new() },
            steps: vec![step("xdp", "one"), step("tc", "two")],
            verdict: verdict("drop"),
            program: TraceProgram {
                name: "from_container".to_owned(),
                hook: "tc".to_owned(),
                note: program.is_none().then(|| "too short".to_owned()),
                verdict: program,
            },
            agrees,
        }
    }

    #[test]
    fn steps_are_numbered_and_end_with_the_program() {
        let shown = text(&view(Some(true), Some(verdict("drop"))));
        assert_eq!(
            shown,
            "frame    a frame\nfrom     web, in network bridge\n   1.    xdp: one\n   2.    tc: two\nverdict  drop: it is \
             drop\nprogram  from_container (tc) decides the same\n"
        );
        assert!(text(&view(Some(false), Some(verdict("pass")))).contains("DECIDES DIFFERENTLY: pass: it is pass"));
        assert!(text(&view(None, None)).contains("was not run: too short"));
    }
}
