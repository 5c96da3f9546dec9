//! Loads the eBPF programs into this kernel and prints what the verifier says of each; `cargo xtask verifier` runs it.

use anyhow::Context as _;
use aya::programs::{Program, ProgramInfo};
use aya::{EbpfLoader, VerifierLogLevel};

fn main() -> anyhow::Result<()> {
    let mut loader = EbpfLoader::new();
    loader.btf(None).verifier_log_level(VerifierLogLevel::STATS).override_global("AYA_LOG_LEVEL", &3_u8, false);
    let mut ebpf = loader.load(vswitch::datapath::OBJECT).context("cannot load the object")?;
    println!("{:<22} {:>8} {:>10} {:>8}", "program", "visited", "translated", "jited");
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            _ => anyhow::bail!("{name} is of a kind that vswitch has none of"),
        }
        .with_context(|| format!("the kernel refuses {name}"))?;
        let info: ProgramInfo = match program {
            Program::SchedClassifier(program) => program.info()?,
            Program::Xdp(program) => program.info()?,
            _ => continue,
        };
        println!(
            "{name:<22} {:>8} {:>10} {:>8}",
            info.verified_instruction_count().unwrap_or(0),
            info.size_translated().unwrap_or(0) / 8,
            info.size_jitted()
        );
    }
    Ok(())
}
