//! Flags about who callers are; named as kube-apiserver's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, Args};
use jiff::SignedDuration;
use keelson_apiserver::authentication::AuthenticationOptions;
use keelson_apiserver::authentication::claims::{Mapping, Source};
use keelson_apiserver::authentication::oidc::{ALGORITHMS, IssuerConfig};
use keelson_apiserver::authentication::request_header::RequestHeader;
use keelson_apiserver::authentication::token::Issuance;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Authentication")]
pub(crate) struct AuthenticationFlags {
    /// A bundle of authorities whose certificates name users, beside the cluster's own.
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: Vec<PathBuf>,
    /// Who issues service-account tokens. The first is written into new ones, all are accepted.
    #[arg(long, value_name = "URL")]
    pub(crate) service_account_issuer: Vec<String>,
    /// Where others find the keys of service-account tokens, if not below the issuer.
    #[arg(long, value_name = "URL")]
    pub(crate) service_account_jwks_uri: Option<String>,
    /// The key that signs service-account tokens, in place of the cluster's own.
    #[arg(long, value_name = "FILE")]
    pub(crate) service_account_signing_key_file: Option<PathBuf>,
    /// Keys whose service-account tokens are accepted too, such as former ones.
    #[arg(long, value_name = "FILE")]
    pub(crate) service_account_key_file: Vec<PathBuf>,
    /// The longest life of a service-account token, such as `24h`.
    #[arg(long, value_name = "DURATION")]
    pub(crate) service_account_max_token_expiration: Option<SignedDuration>,
    /// Whether the token that a pod finds mounted holds a year instead of the hour that it says, for programs that do not
    /// read it again.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) service_account_extend_token_expiration: bool,
    /// The audiences that mean this server; the issuers if none is given.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) api_audiences: Vec<String>,
    /// A file with users' tokens: lines of `token,user,uid,"group1,group2"`.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_auth_file: Option<PathBuf>,
    /// Whether bootstrap tokens are accepted.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) enable_bootstrap_token_auth: bool,
    /// The authorities of proxies that name their clients in headers.
    #[arg(long, value_name = "FILE")]
    pub(crate) requestheader_client_ca_file: Option<PathBuf>,
    /// The names that such proxies' certificates may have; any if none is given.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name.
    #[arg(long, value_delimiter = ',', value_name = "HEADERS")]
    pub(crate) requestheader_username_headers: Vec<String>,
    /// Headers with the user's UID.
    #[arg(long, value_delimiter = ',', value_name = "HEADERS")]
    pub(crate) requestheader_uid_headers: Vec<String>,
    /// Headers with the user's groups.
    #[arg(long, value_delimiter = ',', value_name = "HEADERS")]
    pub(crate) requestheader_group_headers: Vec<String>,
    /// Prefixes of headers with whatever else there is to say of the user.
    #[arg(long, value_delimiter = ',', value_name = "PREFIXES")]
    pub(crate) requestheader_extra_headers_prefix: Vec<String>,
    /// A file of kind AuthenticationConfiguration: issuers of tokens, and paths that need no credentials.
    #[arg(long, value_name = "FILE")]
    pub(crate) authentication_config: Option<PathBuf>,
    /// The kubeconfig of a server that knows the holders of tokens.
    #[arg(long, value_name = "FILE")]
    pub(crate) authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long that server's answers hold.
    #[arg(long, default_value = "2m", value_name = "DURATION")]
    pub(crate) authentication_token_webhook_cache_ttl: SignedDuration,
    #[command(flatten)]
    pub(crate) oidc: OidcFlags,
}

/// An issuer of tokens, by flags.
#[derive(Clone, Debug, Args)]
pub(crate) struct OidcFlags {
    /// The URL of an issuer whose tokens are believed.
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub(crate) oidc_issuer_url: Option<String>,
    /// The audience of its tokens.
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    pub(crate) oidc_client_id: Option<String>,
    /// The authorities that vouch for its server.
    #[arg(long, value_name = "FILE")]
    pub(crate) oidc_ca_file: Option<PathBuf>,
    /// The claim with the user's name.
    #[arg(long, default_value = "sub", value_name = "CLAIM")]
    pub(crate) oidc_username_claim: String,
    /// What is put before names; `-` for nothing. By default the issuer, unless the claim is `email`.
    #[arg(long, value_name = "PREFIX")]
    pub(crate) oidc_username_prefix: Option<String>,
    /// The claim with the user's groups.
    #[arg(long, value_name = "CLAIM")]
    pub(crate) oidc_groups_claim: Option<String>,
    /// What is put before groups.
    #[arg(long, default_value = "", value_name = "PREFIX")]
    pub(crate) oidc_groups_prefix: String,
    /// Claims that must have a value: `claim=value`.
    #[arg(long, value_delimiter = ',', value_name = "CLAIM=VALUE")]
    pub(crate) oidc_required_claim: Vec<String>,
    /// The algorithms that it may sign with.
    #[arg(long, default_value = "RS256", value_delimiter = ',', value_name = "NAMES")]
    pub(crate) oidc_signing_algs: Vec<String>,
}

impl OidcFlags {
    fn issuer(&self) -> anyhow::Result<Option<IssuerConfig>> {
        let (Some(url), Some(client)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            return Ok(None);
        };
        if !url.starts_with("https://") {
            bail!("--oidc-issuer-url {url:?} is no https URL");
        }
        let prefix = match self.oidc_username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if self.oidc_username_claim == "email" => String::new(),
            None => format!("{url}#"),
        };
        let mut required = BTreeMap::new();
        for pair in &self.oidc_required_claim {
            let (claim, value) = pair
                .split_once('=')
                .with_context(|| format!("--oidc-required-claim {pair:?} is no CLAIM=VALUE"))?;
            required.insert(claim.to_owned(), value.to_owned());
        }
        let known = |name: &String| {
            let found = ALGORITHMS.into_iter().find(|it| format!("{it:?}") == *name);
            found.with_context(|| format!("--oidc-signing-algs {name:?} is not supported"))
        };
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        let groups = self.oidc_groups_claim.clone();
        let from = |claim: String, prefix: String| Source::Claim(Mapping { claim, prefix });
        Ok(Some(IssuerConfig {
            url: url.clone(),
            discovery_url: None,
            ca_bundle: self.oidc_ca_file.as_ref().map(read).transpose()?,
            audiences: vec![client.clone()],
            algorithms: self.oidc_signing_algs.iter().map(known).collect::<anyhow::Result<_>>()?,
            groups: groups.map(|claim| from(claim, self.oidc_groups_prefix.clone())),
            required,
            ..IssuerConfig::named_by(from(self.oidc_username_claim.clone(), prefix))
        }))
    }
}

impl AuthenticationFlags {
    /// What the flags say.
    pub(crate) fn options(&self) -> anyhow::Result<AuthenticationOptions> {
        let most = self.service_account_max_token_expiration;
        let most = most.map(Duration::try_from).transpose();
        Ok(AuthenticationOptions {
            client_ca_files: self.client_ca_file.clone(),
            issuance: Issuance {
                issuers: self.service_account_issuer.clone(),
                audiences: self.api_audiences.clone(),
                jwks_uri: self.service_account_jwks_uri.clone(),
                extend_expiration: self.service_account_extend_token_expiration,
                max_expiration: most.context("--service-account-max-token-expiration is negative")?,
            },
            signing_key_file: self.service_account_signing_key_file.clone(),
            key_files: self.service_account_key_file.clone(),
            token_file: self.token_auth_file.clone(),
            bootstrap_tokens: self.enable_bootstrap_token_auth,
            request_header: self.request_header()?,
            config_file: self.authentication_config.clone(),
            issuer: self.oidc.issuer()?,
            webhook_file: self.authentication_token_webhook_config_file.clone(),
            webhook_ttl: Duration::try_from(self.authentication_token_webhook_cache_ttl)
                .context("--authentication-token-webhook-cache-ttl is negative")?,
        })
    }

    fn request_header(&self) -> anyhow::Result<Option<RequestHeader>> {
        let Some(ca_file) = self.requestheader_client_ca_file.clone() else {
            let lists = [
                &self.requestheader_allowed_names,
                &self.requestheader_username_headers,
                &self.requestheader_uid_headers,
                &self.requestheader_group_headers,
                &self.requestheader_extra_headers_prefix,
            ];
            if lists.iter().any(|list| !list.is_empty()) {
                bail!(
                    "the flags --requestheader-* need --requestheader-client-ca-file: headers are believed with a certificate alone"
                );
            }
            return Ok(None);
        };
        Ok(Some(RequestHeader {
            ca_file,
            allowed_names: self.requestheader_allowed_names.clone(),
            username_headers: self.requestheader_username_headers.clone(),
            uid_headers: self.requestheader_uid_headers.clone(),
            group_headers: self.requestheader_group_headers.clone(),
            extra_prefixes: self.requestheader_extra_headers_prefix.clone(),
        }))
    }
}
