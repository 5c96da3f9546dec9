//! The configuration of a network.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::ports::PortMapping;
use super::{Refusal, code};

/// The versions of the specification that vswitch speaks, the newest last.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The configuration of a network, as far as the plugin reads it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conf {
    #[serde(rename = "cniVersion")]
    pub version: String,
    pub name: String,
    /// An existing network of vswitch. Without it, the network of this configuration is made.
    pub network: Option<String>,
    pub driver: Option<String>,
    /// A subnet, or several.
    subnet: Option<OneOrMore>,
    pub ip_range: Option<String>,
    pub gateway: Option<String>,
    pub internal: bool,
    pub ipv6: bool,
    /// Options of the network, as `network create -o` takes them.
    pub options: BTreeMap<String, String>,
    /// Options of the endpoint, as `attach -o` takes them.
    pub endpoint_options: BTreeMap<String, String>,
    pub vlan: Option<String>,
    pub trunk: Option<String>,
    /// vswitch holds the host ports of published ports.
    pub hold: bool,
    pub ipam: Option<IpamPlugin>,
    #[serde(rename = "runtimeConfig")]
    pub runtime: RuntimeConfig,
    #[serde(rename = "prevResult")]
    pub prev_result: Option<Value>,
    pub dns: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid: Vec<Attachment>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// The plugin that assigns addresses.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct IpamPlugin {
    #[serde(rename = "type", default)]
    pub kind: String,
}

/// An attachment that a runtime still has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container: String,
    pub ifname: String,
}

/// What a runtime asks of one container (CNI conventions, "Dynamic Plugin specific fields").
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    #[serde(rename = "portMappings")]
    pub port_mappings: Vec<PortMapping>,
    pub ips: Vec<String>,
    pub mac: Option<String>,
    /// Aliases by the name of the network.
    pub aliases: BTreeMap<String, Vec<String>>,
    #[serde(rename = "ipRanges")]
    ip_ranges: Vec<Vec<Value>>,
    pub dns: Option<Value>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

impl RuntimeConfig {
    /// Returns a capability that vswitch does not have, with its value.
    pub fn unsupported(&self) -> Option<(&String, &Value)> {
        self.others.iter().find(|(_, value)| !value.is_null())
    }

    /// Returns the subnets of the ranges.
    pub fn ranges(&self) -> Vec<String> {
        let ranges = self.ip_ranges.iter().flatten();
        ranges.filter_map(|range| range["subnet"].as_str()).map(str::to_owned).collect()
    }
}

impl Conf {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It is no JSON, or of a version that vswitch does not speak, or has no name.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let unreadable = |error| Refusal::new(code::DECODING, format!("the configuration is not as expected: {error}"));
        let conf: Self = serde_json::from_str(text).map_err(unreadable)?;
        if !VERSIONS.contains(&conf.version.as_str()) {
            let message =
                format!("cniVersion `{}` is not supported (vswitch speaks {})", conf.version, VERSIONS.join(", "));
            return Err(Refusal::new(code::VERSION, message));
        }
        if conf.name.is_empty() {
            return Err(Refusal::new(code::CONFIGURATION, "the configuration has no `name` (give the network one)"));
        }
        Ok(conf)
    }

    /// Returns the subnets.
    pub fn subnets(&self) -> Vec<String> {
        match &self.subnet {
            None => Vec::new(),
            Some(OneOrMore::One(subnet)) => vec![subnet.clone()],
            Some(OneOrMore::More(subnets)) => subnets.clone(),
        }
    }

    /// Returns the addresses that the result of ADD had.
    pub fn expected_addresses(&self) -> Vec<String> {
        let ips = self.prev_result.as_ref().and_then(|result| result["ips"].as_array()).into_iter().flatten();
        let addresses = ips.filter_map(|ip| ip["address"].as_str());
        addresses.map(|address| address.split('/').next().unwrap_or_default().to_owned()).collect()
    }
}

/// Returns the version of a configuration, for answers; the newest for one that cannot be read.
pub fn version_of(text: &str) -> String {
    let conf: Value = serde_json::from_str(text).unwrap_or_default();
    conf["cniVersion"].as_str().filter(|version| !version.is_empty()).unwrap_or("1.1.0").to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_configuration_is_refused_with_the_code_of_the_specification() {
        let code_of = |text: &str| Conf::parse(text).map(|_| ()).map_err(|refusal| refusal.code);
        assert_eq!(code_of("{"), Err(code::DECODING));
        assert_eq!(code_of(r#"{"cniVersion":"0.2.0","name":"n"}"#), Err(code::VERSION));
        assert_eq!(code_of(r#"{"cniVersion":"1.0.0"}"#), Err(code::CONFIGURATION));
        assert_eq!(code_of(r#"{"cniVersion":"1.0.0","name":"n","subnet":["10.0.0.0/24","fd00::/64"]}"#), Ok(()));
    }

    #[test]
    fn ranges_and_addresses_are_read() {
        let conf = Conf::parse(
            r#"{"cniVersion":"0.4.0","name":"n","runtimeConfig":{"ipRanges":[[{"subnet":"10.4.5.0/24"}],[{"subnet":"fd4::/64"}]]},
            "prevResult":{"ips":[{"version":"4","address":"10.4.5.2/24"}]}}"#,
        );
        let conf = conf.expect("a configuration");
        assert_eq!(conf.runtime.ranges(), ["10.4.5.0/24", "fd4::/64"]);
        assert_eq!(conf.expected_addresses(), ["10.4.5.2"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*", tail in "[\\[\\]{}\":,a-z0-9]{0,40}") {
            let _any = (Conf::parse(&text), version_of(&tail), Conf::parse(&format!("{{\"cniVersion\":\"1.0.0\",{tail}")));
        }
    }
}
