//! Published ports, as the engines write them.

use serde::Deserialize;

/// A mapping of host ports to a container's. netavark and CNI spell the keys differently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    #[serde(alias = "hostPort")]
    pub host_port: u16,
    #[serde(alias = "containerPort")]
    pub container_port: u16,
    /// Names of protocols, with commas between them.
    pub protocol: String,
    #[serde(alias = "hostIP", alias = "hostIp")]
    pub host_ip: String,
    /// The number of ports; 0 and 1 are one port.
    pub range: u16,
}

impl PortMapping {
    /// Returns the mapping as `-p` takes it, once for each protocol.
    pub fn published(&self) -> Vec<String> {
        let span = |first: u16| match self.range {
            0 | 1 => first.to_string(),
            count => format!("{first}-{}", first.saturating_add(count - 1)),
        };
        let address = match self.host_ip.as_str() {
            "" => String::new(),
            address if address.contains(':') => format!("[{address}]:"),
            address => format!("{address}:"),
        };
        let host = if self.host_port == 0 { String::new() } else { span(self.host_port) };
        let separator = if host.is_empty() && address.is_empty() { "" } else { ":" };
        let protocols = if self.protocol.is_empty() { "tcp" } else { &self.protocol };
        let port = |protocol: &str| {
            let protocol = protocol.trim().to_lowercase();
            format!("{address}{host}{separator}{}/{protocol}", span(self.container_port))
        };
        protocols.split(',').map(port).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_become_those_of_p() {
        let read = |text: &str| serde_json::from_str::<PortMapping>(text).expect("a mapping").published();
        let ranged = r#"{"container_port":9000,"host_ip":"","host_port":9000,"protocol":"udp","range":3}"#;
        assert_eq!(read(ranged), ["9000-9002:9000-9002/udp"]);
        let cni = r#"{"hostPort":8088,"containerPort":80,"protocol":"tcp","hostIP":"127.0.0.1"}"#;
        assert_eq!(read(cni), ["127.0.0.1:8088:80/tcp"]);
        assert_eq!(read(r#"{"hostPort":53,"containerPort":53,"protocol":"tcp,udp"}"#), ["53:53/tcp", "53:53/udp"]);
        assert_eq!(read(r#"{"containerPort":80,"hostIP":"fd00::1"}"#), ["[fd00::1]::80/tcp"]);
        assert_eq!(read(r#"{"containerPort":80}"#), ["80/tcp"]);
        for text in [ranged, cni] {
            assert!(read(text).iter().all(|port| port.parse::<crate::model::PublishSpec>().is_ok()));
        }
    }
}
