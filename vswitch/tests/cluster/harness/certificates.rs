//! Certificates for etcd and for the client, signed by a CA that the test creates.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// Paths of the certificates and keys.
pub struct Certificates {
    pub authority: PathBuf,
    /// A CA that signed none of the other certificates.
    pub stranger: PathBuf,
    pub server: PathBuf,
    pub server_key: PathBuf,
    pub client: PathBuf,
    pub client_key: PathBuf,
}

impl Certificates {
    /// Writes certificates and keys, for servers at these addresses.
    pub fn write(directory: &Path, addresses: &[IpAddr]) -> Self {
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).expect("written");
            path
        };
        let (trusted, issuer) = authority();
        let (stranger, _) = authority();
        let addresses = addresses.iter().copied().map(SanType::IpAddress).collect();
        let (server, server_key) = signed(&issuer, addresses, ExtendedKeyUsagePurpose::ServerAuth);
        let (client, client_key) = signed(&issuer, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth);
        Self {
            authority: write("ca.pem", trusted),
            stranger: write("stranger.pem", stranger),
            server: write("server.pem", server),
            server_key: write("server.key", server_key),
            client: write("client.pem", client),
            client_key: write("client.key", client_key),
        }
    }
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = parameters.self_signed(&key).expect("a certificate");
    (certificate.pem(), Issuer::new(parameters, key))
}

fn signed(issuer: &Issuer<'_, KeyPair>, names: Vec<SanType>, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names = names;
    // etcd's gateway connects to etcd as a client with the server's certificate.
    parameters.extended_key_usages = vec![purpose, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = parameters.signed_by(&key, issuer).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}
