//! Certificates by request: a key of this machine's own, a CertificateSigningRequest, and what the cluster makes of it.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use keelson_apiserver::pki::Credential;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt as _};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

/// As long as kubelets wait elsewhere: somebody may have to approve it.
const PATIENCE: Duration = Duration::from_secs(900);

/// A kubelet as client of the API server.
pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// A kubelet as server.
pub(crate) const SERVING: &str = "kubernetes.io/kubelet-serving";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("make a key and a request for a certificate")]
    Make(#[from] rcgen::Error),
    #[error("ask for a certificate")]
    Create(#[source] kube::Error),
    #[error("wait for the certificate of the request {name}")]
    Wait { name: String, source: kube::runtime::wait::Error },
    #[error("the cluster refuses the certificate: {message}")]
    Denied { message: String },
    #[error("the cluster cannot sign the request {name}: {message}")]
    Failed { name: String, message: String },
    #[error(
        "nobody approved the request {name}: approve it with `kubectl certificate approve {name}`, then start again"
    )]
    Unanswered { name: String },
}

/// What a node asks for.
pub(crate) struct Wanted<'a> {
    /// Which signer is asked.
    pub(crate) signer: &'static str,
    /// The name of the Node.
    pub(crate) node: &'a str,
    /// Where it serves, if it is to serve.
    pub(crate) address: Option<IpAddr>,
}

/// What there is of an answer.
enum Answer {
    Certificate(String),
    Denied(String),
    Failed(String),
}

fn answer(request: &CertificateSigningRequest) -> Option<Answer> {
    let status = request.status.as_ref()?;
    for condition in status.conditions.iter().flatten() {
        let message = || condition.message.clone().or_else(|| condition.reason.clone()).unwrap_or_default();
        match condition.type_.as_str() {
            "Denied" => return Some(Answer::Denied(message())),
            "Failed" => return Some(Answer::Failed(message())),
            // Approved, and what others may add.
            _ => {}
        }
    }
    let ByteString(certificate) = status.certificate.as_ref()?;
    String::from_utf8(certificate.clone()).ok().filter(|it| !it.is_empty()).map(Answer::Certificate)
}

impl Wanted<'_> {
    fn request(&self, key: &KeyPair) -> Result<CertificateSigningRequest, rcgen::Error> {
        let mut params = match self.address {
            Some(_) => CertificateParams::new([self.node.to_owned()])?,
            None => CertificateParams::default(),
        };
        params.subject_alt_names.extend(self.address.map(SanType::IpAddress));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        let usage = if self.signer == SERVING { "server auth" } else { "client auth" };
        Ok(CertificateSigningRequest {
            metadata: ObjectMeta { generate_name: Some("node-csr-".to_owned()), ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(params.serialize_request(key)?.pem()?.into_bytes()),
                signer_name: self.signer.to_owned(),
                usages: Some(["digital signature", usage].map(str::to_owned).to_vec()),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        })
    }

    /// Asks, and waits for the answer. The key never leaves this machine.
    pub(crate) async fn ask(&self, client: &Client) -> Result<Credential, RequestError> {
        let key = KeyPair::generate()?;
        let api: Api<CertificateSigningRequest> = Api::all(client.clone());
        let made = api.create(&PostParams::default(), &self.request(&key)?).await;
        let name = made.map_err(RequestError::Create)?.name_any();
        tracing::info!(request = name, signer = self.signer, "asked for a certificate");
        let answered =
            |found: Option<&CertificateSigningRequest>| found.is_some_and(|it| answer(it).is_some());
        let waited = tokio::time::timeout(PATIENCE, await_condition(api, &name, answered)).await;
        let found = match waited {
            Ok(Ok(found)) => found,
            Ok(Err(source)) => return Err(RequestError::Wait { name, source }),
            Err(_) => return Err(RequestError::Unanswered { name }),
        };
        match found.as_ref().and_then(answer) {
            Some(Answer::Certificate(certificate)) => {
                Ok(Credential { certificate, key: key.serialize_pem() })
            }
            Some(Answer::Denied(message)) => Err(RequestError::Denied { message }),
            Some(Answer::Failed(message)) => Err(RequestError::Failed { name, message }),
            None => Err(RequestError::Unanswered { name }),
        }
    }
}

#[cfg(test)]
mod tests {
    use keelson_apiserver::certificates::request::Request;
    use keelson_apiserver::certificates::signer;

    use super::*;

    #[test]
    fn what_a_node_asks_for_is_what_the_signers_sign() {
        let key = KeyPair::generate().unwrap();
        for (wanted, address) in [(CLIENT, None), (SERVING, Some("192.0.2.1".parse().unwrap()))] {
            let request = Wanted { signer: wanted, node: "one", address }.request(&key).unwrap();
            let text =
                base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &request.spec.request.0);
            let read = Request::from_base64(&text).unwrap();
            assert_eq!(read.common_name.as_deref(), Some("system:node:one"));
            assert_eq!(signer::refusal(wanted, &read, &request.spec.usages.unwrap()), None);
        }
    }

    #[test]
    fn a_refusal_is_told_before_a_certificate() {
        let with = |status: serde_json::Value| -> CertificateSigningRequest {
            let document =
                serde_json::json!({"spec": {"request": "", "signerName": CLIENT}, "status": status});
            serde_json::from_value(document).unwrap()
        };
        let approved = serde_json::json!({"conditions": [{"type": "Approved", "status": "True"}]});
        assert!(answer(&with(approved)).is_none());
        let denied = serde_json::json!({
            "conditions": [{"type": "Denied", "status": "True", "reason": "R", "message": "no"}], "certificate": "QQ==",
        });
        assert!(matches!(answer(&with(denied)), Some(Answer::Denied(message)) if message == "no"));
        let signed = serde_json::json!({"certificate": "QQ=="});
        assert!(matches!(answer(&with(signed)), Some(Answer::Certificate(text)) if text == "A"));
    }
}
