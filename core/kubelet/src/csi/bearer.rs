//! The pod for which a volume is published: what a driver is told of it, and the tokens of its account (`tokenRequests`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriverSpec;
use serde_json::json;

use super::Drivers;
use super::driver::CsiError;
use super::mount::Lifecycle;
use crate::volume::token::Wish;

/// Where a driver finds the tokens.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// How long a token is good where the driver does not say.
const HOUR: i64 = 3600;

/// A pod that has a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    account: String,
}

impl Bearer {
    pub(super) fn of(pod: &Pod) -> Self {
        let text = |text: Option<&String>| text.cloned().unwrap_or_default();
        Bearer {
            name: text(pod.metadata.name.as_ref()),
            namespace: text(pod.metadata.namespace.as_ref()),
            uid: text(pod.metadata.uid.as_ref()),
            account: text(pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_ref())),
        }
    }

    /// What of the pod a driver is told.
    pub(super) fn about(&self, lifecycle: Lifecycle) -> [(String, String); 5] {
        [
            ("pod.name", self.name.clone()),
            ("pod.namespace", self.namespace.clone()),
            ("pod.uid", self.uid.clone()),
            ("serviceAccount.name", self.account.clone()),
            ("ephemeral", (lifecycle == Lifecycle::Ephemeral).to_string()),
        ]
        .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
    }

    /// The tokens that a driver asks for (pure).
    fn wishes(&self, spec: Option<&CSIDriverSpec>) -> Vec<Wish> {
        let requests = spec.and_then(|spec| spec.token_requests.as_ref()).into_iter().flatten();
        let wish = |request: &k8s_openapi::api::storage::v1::TokenRequest| Wish {
            namespace: self.namespace.clone(),
            account: self.account.clone(),
            audience: Some(request.audience.clone()).filter(|audience| !audience.is_empty()),
            seconds: request.expiration_seconds.unwrap_or(HOUR),
            pod: self.name.clone(),
            uid: self.uid.clone(),
        };
        requests.map(wish).collect()
    }
}

impl Drivers {
    /// The tokens that a driver asks for, by their audiences, as it wants to be told; nothing if it asks for none.
    pub(super) async fn tokens_for(
        &self,
        bearer: &Bearer,
        spec: Option<&CSIDriverSpec>,
    ) -> Result<BTreeMap<String, String>, CsiError> {
        let mut tokens = serde_json::Map::new();
        for wish in bearer.wishes(spec) {
            let audience = wish.audience.clone().unwrap_or_default();
            let token = self.tokens.token(wish).await.map_err(CsiError::Token)?;
            // To the second, as the API has it.
            let ends = token.ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            tokens.insert(audience, json!({"token": token.text, "expirationTimestamp": ends}));
        }
        let text = (!tokens.is_empty()).then(|| serde_json::Value::from(tokens).to_string());
        Ok(text.map(|text| (TOKENS.to_owned(), text)).into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn a_driver_gets_a_token_of_the_pods_account_for_each_audience_it_asks_for() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "serviceAccountName": "s"},
        });
        let bearer = Bearer::of(&from_value(pod).unwrap());
        let requests = json!([{"audience": ""}, {"audience": "vault", "expirationSeconds": 600}]);
        let spec = from_value(json!({"tokenRequests": requests})).unwrap();
        let wishes = bearer.wishes(Some(&spec));
        let brief: Vec<_> = wishes.iter().map(|it| (it.audience.as_deref(), it.seconds)).collect();
        assert_eq!(brief, [(None, 3600), (Some("vault"), 600)]);
        assert!(wishes.iter().all(|it| it.account == "s" && it.pod == "p" && it.uid == "u"));
        assert_eq!(bearer.wishes(None), []);
    }
}
