//! How fast it is: figures, and no judgement of them.

use crate::harness::{eventually, run};
use crate::scene::{Scene, backends};

#[test]
#[ignore = "it measures for some seconds: run it by its name, with --ignored"]
fn throughput() {
    for backend in backends() {
        let scene = Scene::acquainted(backend, 2, false);
        scene.reaches(0, 1);
        let [a, b] = &scene.hosts[..] else { panic!("two hosts") };
        for (what, address) in [("WireGuard", b.inner().into()), ("in the clear", b.outer(false))] {
            for streams in ["1", "4"] {
                let mut server = b
                    .netns
                    .command("iperf3")
                    .args(["-s", "-1"])
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .expect("iperf3");
                let figures = eventually("iperf3 measures", || {
                    let target = address.to_string();
                    let outcome = run(a.netns.command("iperf3").args(["-c", &target, "-t", "4", "-P", streams, "-J"]));
                    serde_json::from_str::<serde_json::Value>(&outcome.stdout).ok()?["end"]["sum_received"]["bits_per_second"].as_f64()
                });
                server.wait().expect("it ends by itself");
                println!("{backend:?}, {what}, {streams} streams: {:.2} Gbit/s", figures / 1e9);
            }
        }
        println!("drops: {:?} {:?}", a.drops(), b.drops());
    }
}
