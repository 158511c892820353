//! `grpcs`: a pinned certificate as Kuma generates it, no verification, and refusal.

use std::path::PathBuf;
use std::sync::Arc;

use kdsync::zone::{Config, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::rig::{Rig, config, pinned};
use super::scripted::{Kind, Scripted};

struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// Self-signed, an authority and a server's at once, without a subject (Kuma 2.14.3 `pkg/tls/cert.go`).
fn like_kuma(names: &[&str]) -> Pair {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    Pair { certificate: params.self_signed(&key).unwrap(), key }
}

impl Pair {
    fn file(&self, dir: &TempDir, name: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, self.certificate.pem()).unwrap();
        path
    }

    /// TLS in front of a plain server.
    async fn before(&self, plain: String) -> (String, JoinSet<()>) {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, plain) = (acceptor.clone(), plain.clone());
                connections.spawn(async move {
                    // A client that refuses the certificate shows at the client.
                    let Ok(mut outer) = acceptor.accept(tcp).await else { return };
                    assert_eq!(outer.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                    let mut inner = TcpStream::connect(plain).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
        (address, serving)
    }
}

async fn follows(tls: Tls, pair: &Pair) {
    let mut global = Scripted::start(Kind::New).await;
    let (address, _serving) = pair.before(global.address.clone()).await;
    let rig = Rig::with(Config { tls, ..config(&format!("grpcs://{address}")) }).await;
    let _stream = global.synced("c1", &[("a", "1")]).await;
    rig.holds(&["a=1"]).await;
    rig.stop().await;
}

/// Why the zone does not connect.
async fn refusal(tls: Tls, pair: &Pair) -> String {
    let global = Scripted::start(Kind::New).await;
    let (address, _serving) = pair.before(global.address.clone()).await;
    let rig = Rig::with(Config { tls, ..config(&format!("grpcs://{address}")) }).await;
    let told = rig.event("disconnected").await;
    rig.stop().await;
    told
}

#[tokio::test]
async fn kumas_own_certificate_is_accepted_when_pinned() {
    let dir = TempDir::new().unwrap();
    let pair = like_kuma(&["localhost", "127.0.0.1"]);
    follows(pinned(pair.file(&dir, "ca.pem")), &pair).await;
}

#[tokio::test]
async fn no_verification_is_possible_when_asked_for() {
    follows(Tls::Nothing, &like_kuma(&["elsewhere"])).await;
}

#[tokio::test]
async fn strangers_are_refused() {
    let dir = TempDir::new().unwrap();
    let (pair, other) = (like_kuma(&["127.0.0.1"]), like_kuma(&["127.0.0.1"]));
    let told = refusal(pinned(other.file(&dir, "other.pem")), &pair).await;
    assert!(told.contains("certificate"), "{told}");
    // The right certificate under another name.
    let elsewhere = like_kuma(&["elsewhere"]);
    let told = refusal(pinned(elsewhere.file(&dir, "elsewhere.pem")), &elsewhere).await;
    assert!(told.contains("certificate"), "{told}");
    let told = refusal(pinned(dir.path().join("missing.pem")), &pair).await;
    assert!(told.contains("missing.pem"), "{told}");
}
