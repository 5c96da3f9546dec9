//! The files that each engine needs. Pure: a function of the places on the machine.

use std::path::PathBuf;

use super::Engine;
use super::found::Places;

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub path: PathBuf,
    pub text: String,
    pub mode: u32,
}

/// The folder in which netavark looks for plugins of the administrator. The name of a plugin is the
/// name of the driver.
const NETAVARK: &str = "usr/local/lib/netavark/vswitch";

/// Returns the files of an engine.
pub fn of(engine: Engine, places: &Places) -> Vec<Planned> {
    let file = |path: &str, text: String, mode| Planned { path: places.root.join(path), text, mode };
    match engine {
        Engine::Docker => {
            vec![file("etc/docker/plugins/vswitch.spec", format!("unix://{}\n", places.socket.display()), 0o644)]
        }
        Engine::Podman => vec![file(NETAVARK, script(places, "netavark \"$@\""), 0o755)],
        Engine::Cni => vec![
            file(&format!("{}/vswitch", places.cni), script(places, "cni"), 0o755),
            file("etc/cni/net.d/99-vswitch.conflist", CONFLIST.to_owned(), 0o644),
        ],
    }
}

/// Returns a script that executes this program as a plugin.
fn script(places: &Places, plugin: &str) -> String {
    let (program, instance) = (places.program.display(), &places.instance);
    let instance = if instance == "default" { String::new() } else { format!("--instance {instance} ") };
    format!("#!/bin/sh\nexec '{program}' {instance}plugin {plugin}\n")
}

/// Sample configuration for CNI. Its number puts it behind others: a runtime takes the first by
/// name.
const CONFLIST: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "vswitch-cni",
  "plugins": [
    { "type": "vswitch" },
    { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }
  ]
}
"#;

/// Returns what to do next.
pub fn next(engine: Engine, _: &Places) -> Option<String> {
    let example = match engine {
        Engine::Docker => "docker network create -d vswitch --ipam-driver vswitch front",
        Engine::Podman => "podman network create -d vswitch front",
        Engine::Cni => "ctr run --rm --cni --rootfs DIR c1 /bin/sh",
    };
    Some(format!("next: {example}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(instance: &str) -> Places {
        Places {
            root: "/r".into(),
            program: "/usr/bin/vswitch".into(),
            instance: instance.to_owned(),
            socket: "/run/vswitch/default/docker.sock".into(),
            cni: "usr/lib/cni".to_owned(),
        }
    }

    #[test]
    fn each_engine_gets_what_it_looks_for() {
        let docker = of(Engine::Docker, &places("default"));
        assert_eq!(docker[0].path, PathBuf::from("/r/etc/docker/plugins/vswitch.spec"));
        assert_eq!(docker[0].text, "unix:///run/vswitch/default/docker.sock\n");
        let podman = of(Engine::Podman, &places("lab"));
        assert_eq!(podman[0].text, "#!/bin/sh\nexec '/usr/bin/vswitch' --instance lab plugin netavark \"$@\"\n");
        assert_eq!(podman[0].mode, 0o755);
        let cni = of(Engine::Cni, &places("default"));
        assert_eq!(cni[0].path, PathBuf::from("/r/usr/lib/cni/vswitch"));
        let conflist: serde_json::Value = serde_json::from_str(&cni[1].text).expect("JSON");
        assert_eq!(conflist["plugins"][0]["type"], "vswitch");
    }
}
