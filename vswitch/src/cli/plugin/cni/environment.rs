//! The environment of a plugin: `CNI_COMMAND` and the other variables.

use super::{Refusal, code};

/// The variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub command: String,
    /// `CNI_CONTAINERID`
    pub container: String,
    /// `CNI_IFNAME`
    pub ifname: String,
    /// `CNI_NETNS`; a runtime may leave it empty for DEL.
    pub netns: String,
    /// `CNI_ARGS`
    pub arguments: String,
    /// `CNI_PATH`: folders of plugins, with colons between them.
    pub path: String,
}

/// The arguments of `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    pub name: Option<String>,
    pub mac: Option<String>,
    pub ips: Vec<String>,
}

impl Environment {
    /// Reads the variables of this process.
    pub fn of_process() -> Self {
        let read = |name: &str| std::env::var(name).unwrap_or_default();
        Self {
            command: read("CNI_COMMAND"),
            container: read("CNI_CONTAINERID"),
            ifname: read("CNI_IFNAME"),
            netns: read("CNI_NETNS"),
            arguments: read("CNI_ARGS"),
            path: read("CNI_PATH"),
        }
    }

    /// Checks that the variables of a command are there.
    ///
    /// # Errors
    /// The first that is missing.
    pub fn complete(&self, needs_netns: bool) -> Result<Self, Refusal> {
        let needed = [
            ("CNI_CONTAINERID", self.container.is_empty()),
            ("CNI_IFNAME", self.ifname.is_empty()),
            ("CNI_NETNS", needs_netns && self.netns.is_empty()),
        ];
        match needed.into_iter().find(|(_, missing)| *missing) {
            Some((name, _)) => {
                Err(Refusal::new(code::ENVIRONMENT, format!("{name} is missing (a container runtime sets it)")))
            }
            None => Ok(self.clone()),
        }
    }

    /// Reads the arguments.
    ///
    /// # Errors
    /// An argument is unknown, and the runtime does not say that unknown ones are to be ignored.
    pub fn arguments(&self) -> Result<Arguments, Refusal> {
        let pairs = self.arguments.split(';').filter(|pair| !pair.is_empty());
        let pairs: Vec<(&str, &str)> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        let ignores =
            pairs.iter().any(|(key, value)| *key == "IgnoreUnknown" && ["1", "true", "TRUE", "True"].contains(value));
        let mut arguments = Arguments::default();
        for (key, value) in pairs {
            match key {
                "K8S_POD_NAME" => arguments.name = Some(value.to_owned()).filter(|name| !name.is_empty()),
                "MAC" => arguments.mac = Some(value.to_owned()),
                "IP" => arguments.ips.extend(value.split(',').map(str::to_owned)),
                "IgnoreUnknown" | "K8S_POD_NAMESPACE" | "K8S_POD_INFRA_CONTAINER_ID" | "K8S_POD_UID" => {}
                _ if ignores => {}
                _ => {
                    let message = format!("CNI_ARGS has the unknown `{key}` (IgnoreUnknown=1 makes vswitch ignore it)");
                    return Err(Refusal::new(code::ENVIRONMENT, message));
                }
            }
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(arguments: &str) -> Environment {
        Environment { arguments: arguments.to_owned(), ..Environment::default() }
    }

    #[test]
    fn arguments_of_podman_and_kubernetes_are_read() {
        let read = with("IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:00:00:00:00:01;IP=10.0.0.5,fd00::5;X=y").arguments();
        let read = read.expect("arguments");
        assert_eq!((read.name.as_deref(), read.mac.as_deref()), (Some("web"), Some("02:00:00:00:00:01")));
        assert_eq!(read.ips, ["10.0.0.5", "fd00::5"]);
        assert_eq!(with("").arguments(), Ok(Arguments::default()));
        assert!(with("X=y").arguments().expect_err("unknown").message.contains("`X`"));
    }

    #[test]
    fn a_missing_variable_is_named() {
        let mut environment = Environment { container: "c".to_owned(), ..Environment::default() };
        assert!(environment.complete(false).expect_err("no interface").message.contains("CNI_IFNAME"));
        environment.ifname = "eth0".to_owned();
        assert!(environment.complete(false).is_ok());
        assert!(environment.complete(true).expect_err("no namespace").message.contains("CNI_NETNS"));
    }
}
