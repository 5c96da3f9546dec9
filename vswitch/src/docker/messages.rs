//! Docker's requests, as far as the plugin reads them.

use std::collections::BTreeMap;

use serde_json::Value;

/// The keys that Docker gives endpoints' options besides those of the user.
const DOCKER: &str = "com.docker.";

/// A request. Docker leaves out or empties what it has no value for, so every part is optional.
#[derive(Clone, Debug, Default)]
pub struct Request(Value);

impl Request {
    /// Reads a request. A body that is no JSON object is an empty request: Docker repeats a request
    /// without its body.
    pub fn read(body: &[u8]) -> Self {
        Self(serde_json::from_slice(body).ok().filter(Value::is_object).unwrap_or_default())
    }

    /// Returns a text; an empty one for a missing key.
    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// Returns a text that is not empty.
    pub fn given(&self, key: &str) -> Option<&str> {
        Some(self.text(key)).filter(|text| !text.is_empty())
    }

    /// Returns whether a key is true.
    pub fn is(&self, key: &str) -> bool {
        self.0[key].as_bool() == Some(true)
    }

    /// Returns the object at a key, empty if there is none.
    pub fn object(&self, key: &str) -> Self {
        Self(self.0[key].clone())
    }

    /// Returns the objects of a list.
    pub fn list(&self, key: &str) -> Vec<Self> {
        self.0[key].as_array().into_iter().flatten().cloned().map(Self).collect()
    }

    /// Returns the keys with a text, a number or a truth value, as text.
    pub fn texts(&self) -> BTreeMap<String, String> {
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
            _ => None,
        };
        let entries = self.0.as_object().into_iter().flatten();
        entries.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
    }

    /// Returns the options of a network or an endpoint that the user gave with `-o`,
    /// `--driver-opt` or `driver-opt=`.
    pub fn user_options(&self) -> BTreeMap<String, String> {
        let options = self.object("Options");
        let mut texts = options.object("com.docker.network.generic").texts();
        texts.extend(options.texts().into_iter().filter(|(key, _)| !key.starts_with(DOCKER)));
        texts
    }

    /// Returns the published ports, as `-p` takes them, in order.
    pub fn published(&self) -> Vec<String> {
        let mut ports: Vec<String> =
            self.object("Options").list("com.docker.network.portmap").iter().filter_map(Self::port).collect();
        ports.sort();
        ports.dedup();
        ports
    }

    fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_default()
    }

    /// Returns a port binding, as `-p` takes it.
    fn port(&self) -> Option<String> {
        let protocol = match self.number("Proto") {
            6 => "tcp",
            17 => "udp",
            132 => "sctp",
            _ => return None,
        };
        let (first, last) = (self.number("HostPort"), self.number("HostPortEnd"));
        let host = match () {
            () if first == 0 => String::new(),
            () if last > first => format!("{first}-{last}"),
            () => first.to_string(),
        };
        let address = match self.given("HostIP") {
            Some(address) if address.contains(':') => format!("[{address}]:"),
            Some(address) => format!("{address}:"),
            None => String::new(),
        };
        let separator = if host.is_empty() && address.is_empty() { "" } else { ":" };
        Some(format!("{address}{host}{separator}{}/{protocol}", self.number("Port")))
    }
}

/// Returns an address without its prefix length.
pub fn without_prefix(address: &str) -> String {
    address.split('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(text: &str) -> Request {
        Request::read(text.as_bytes())
    }

    #[test]
    fn port_bindings_of_docker_26_become_those_of_p() {
        let request = request(
            r#"{"Options":{"com.docker.network.endpoint.exposedports":[{"Proto":6,"Port":7777}],
            "com.docker.network.portmap":[
            {"Proto":6,"IP":"","Port":81,"HostIP":"","HostPort":0,"HostPortEnd":0},
            {"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080},
            {"Proto":17,"IP":"","Port":443,"HostIP":"127.0.0.1","HostPort":8443,"HostPortEnd":8443},
            {"Proto":6,"IP":"","Port":90,"HostIP":"::","HostPort":9000,"HostPortEnd":9010},
            {"Proto":6,"IP":"","Port":91,"HostIP":"127.0.0.1","HostPort":0,"HostPortEnd":0}]}}"#,
        );
        let ports = ["127.0.0.1:8443:443/udp", "127.0.0.1::91/tcp", "8080:80/tcp", "81/tcp", "[::]:9000-9010:90/tcp"];
        assert_eq!(request.published(), ports);
        for port in request.published() {
            assert!(port.parse::<crate::model::PublishSpec>().is_ok(), "{port}");
        }
    }

    #[test]
    fn options_are_those_of_the_user() {
        let network = request(
            r#"{"NetworkID":"5f","Options":{"com.docker.network.enable_ipv6":true,
            "com.docker.network.generic":{"mtu":"1400","driver":"macvlan"}}}"#,
        );
        let options = network.user_options();
        assert_eq!(
            options.into_iter().collect::<Vec<_>>(),
            [("driver".to_owned(), "macvlan".to_owned()), ("mtu".to_owned(), "1400".to_owned())]
        );
        let endpoint = request(
            r#"{"Options":{"com.docker.network.endpoint.dnsservers":["9.9.9.9"],"vlan":"30",
            "com.docker.network.endpoint.ifname":"lan0"}}"#,
        );
        assert_eq!(endpoint.user_options().into_iter().collect::<Vec<_>>(), [("vlan".to_owned(), "30".to_owned())]);
    }

    #[test]
    fn a_request_may_be_empty() {
        for body in ["", "{}", "null", "[]", "{\"Options\":null}"] {
            let request = request(body);
            assert_eq!((request.text("PoolID"), request.published()), ("", Vec::new()), "{body}");
            assert!(request.user_options().is_empty());
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let request = Request::read(&body);
            let _any = (request.published(), request.user_options(), request.list("IPv4Data"));
        }
    }
}
