//! **A** Keys, certificates and kubeconfigs of the cluster, made anew with each new cluster.

use crate::place::{API_PORT, NODE, Place};
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The first address of the service range, which the API server has as the Service `kubernetes`.
const API_SERVICE: &str = "10.96.0.1";
/// Whoever is in this group may do everything.
const MASTERS: &str = "system:masters";

/// Certificates that a kubeconfig is made for: file name, user, group.
const USERS: [(&str, &str, Option<&str>); 5] = [
    ("admin", "rig:admin", Some(MASTERS)),
    ("controllers", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("proxy", "system:kube-proxy", None),
    ("kubelet", "system:node:node", Some("system:nodes")),
];

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Makes everything below `pki/` and `conf/` of the state.
pub fn make(place: &Place) -> Result<()> {
    let folder = place.folder("pki")?;
    let authority = authority("cluster")?;
    write(&folder, "ca.crt", &authority.pem())?;
    write(&folder, "ca.key", &authority.key().serialize_pem())?;
    // An authority of its own: whoever has a certificate of it may claim any user (the aggregated API's front proxy).
    let front = self::authority("front-proxy")?;
    write(&folder, "front-proxy-ca.crt", &front.pem())?;
    let account = KeyPair::generate()?;
    write(&folder, "account.key", &account.serialize_pem())?;
    write(&folder, "account.pub", &account.public_key_pem())?;

    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let mut api: Vec<&str> = names.to_vec();
    api.extend(["localhost", "127.0.0.1", API_SERVICE, NODE]);
    leaf(&folder, &authority, "apiserver", "kube-apiserver", None, &api)?;
    leaf(&folder, &authority, "apiserver-kubelet", "rig:apiserver", Some(MASTERS), &[])?;
    leaf(&folder, &front, "front-proxy", "front-proxy-client", None, &[])?;
    for (name, user, group) in USERS {
        let addresses: &[&str] = if name == "kubelet" { &["node", NODE, "127.0.0.1"] } else { &[] };
        leaf(&folder, &authority, name, user, group, addresses)?;
        kubeconfig(place, &folder, name)?;
    }
    Ok(())
}

fn authority(name: &str) -> Result<Authority> {
    let mut params = params(name, None, &[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("cannot sign an authority")
}

fn leaf(
    folder: &Path,
    authority: &Authority,
    file: &str,
    user: &str,
    group: Option<&str>,
    addresses: &[&str],
) -> Result<()> {
    let mut params = params(user, group, addresses)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority).with_context(|| format!("cannot sign {file}"))?;
    write(folder, &format!("{file}.crt"), &certificate.pem())?;
    write(folder, &format!("{file}.key"), &key.serialize_pem())
}

fn params(user: &str, group: Option<&str>, addresses: &[&str]) -> Result<CertificateParams> {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(addresses)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    // Far on both sides: the cluster does not outlive a day, and no clock is asked.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    Ok(params)
}

fn kubeconfig(place: &Place, folder: &Path, name: &str) -> Result<()> {
    let document = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "rig",
        "clusters": [{"name": "rig", "cluster": {
            "server": format!("https://{NODE}:{API_PORT}"), "certificate-authority": folder.join("ca.crt")}}],
        "users": [{"name": name, "user": {
            "client-certificate": folder.join(format!("{name}.crt")), "client-key": folder.join(format!("{name}.key"))}}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": name, "namespace": "default"}}],
    });
    place.folder("conf")?;
    let path = place.kubeconfig(name);
    fs::write(&path, serde_json::to_vec_pretty(&document)?).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file that only its owner may read: half of them are keys.
fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).context("cannot close a file to others")
}
