//! Address management by another plugin, such as host-local: it is executed with the same
//! environment and configuration (SPEC.md, section 4).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use ipnet::IpNet;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::conf::IpamPlugin;
use super::environment::Environment;
use super::{Refusal, code};

/// What the plugin assigned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assigned {
    /// Addresses with the prefix lengths of their subnets.
    pub addresses: Vec<String>,
    pub gateways: Vec<String>,
    pub routes: Option<Value>,
    pub dns: Option<Value>,
}

impl Assigned {
    /// Reads the result of ADD.
    fn of(result: &Value) -> Self {
        let ips = result["ips"].as_array();
        let texts = |key: &str| {
            let entries = ips.into_iter().flatten().filter_map(|ip| ip[key].as_str());
            entries.map(str::to_owned).collect::<Vec<_>>()
        };
        let given = |key: &str| Some(result[key].clone()).filter(|value| !value.is_null());
        Self { addresses: texts("address"), gateways: texts("gateway"), routes: given("routes"), dns: given("dns") }
    }

    /// Returns the subnets of the addresses.
    pub fn subnets(&self) -> Result<Vec<String>, Refusal> {
        let subnet = |address: &String| -> Result<String, Refusal> {
            let net: IpNet = address.parse().map_err(|_| {
                Refusal::new(code::DECODING, format!("the IPAM plugin assigned `{address}`, which is no address"))
            })?;
            Ok(net.trunc().to_string())
        };
        let subnets: BTreeSet<String> = self.addresses.iter().map(subnet).collect::<Result<_, _>>()?;
        Ok(subnets.into_iter().collect())
    }
}

/// Executes the plugin with a command.
///
/// # Errors
/// It is in none of the folders of `CNI_PATH`, or refused the command.
pub async fn run(
    plugin: &IpamPlugin,
    command: &str,
    text: &str,
    environment: &Environment,
) -> Result<Assigned, Refusal> {
    let name = &plugin.kind;
    let is_name = !name.is_empty() && !name.contains('/');
    let found = environment.path.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    let path = found.filter(|_| is_name).ok_or_else(|| {
        let message = format!("IPAM plugin `{name}` is in none of the folders of CNI_PATH ({})", environment.path);
        Refusal::new(code::CONFIGURATION, message)
    })?;
    let failed = |error: std::io::Error| Refusal::new(code::IO, format!("cannot execute {}: {error}", path.display()));
    let mut child = Command::new(&path)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A plugin may exit without reading.
        let _ = input.write_all(text.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.success() {
        return Ok(Assigned::of(&answer));
    }
    let code = answer["code"].as_u64().and_then(|code| u32::try_from(code).ok()).unwrap_or(code::REFUSED);
    let said = answer["msg"].as_str().unwrap_or("it said no reason");
    Err(Refusal::new(code, format!("IPAM plugin {name}: {said}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_result_of_host_local_is_read() {
        let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.5.0.9/24", "gateway": "10.5.0.1"},
            {"address": "fd05::9/64"}], "routes": [{"dst": "0.0.0.0/0"}], "dns": {}});
        let assigned = Assigned::of(&result);
        assert_eq!((assigned.addresses.len(), &assigned.gateways[..]), (2, &["10.5.0.1".to_owned()][..]));
        assert_eq!(assigned.subnets().expect("subnets"), ["10.5.0.0/24", "fd05::/64"]);
        let broken = Assigned { addresses: vec!["here".to_owned()], ..Assigned::default() };
        assert!(broken.subnets().is_err());
        assert_eq!(Assigned::of(&Value::Null), Assigned::default());
    }
}
