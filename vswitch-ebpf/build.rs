//! Options for bpf-linker, which makes the machine code.

fn main() {
    // 32-bit arithmetic (kernel 5.1; we ask for 6.1).
    println!("cargo:rustc-link-arg=--cpu-features=+alu32");
}
