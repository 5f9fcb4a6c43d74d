//! Flags about who callers are; named as kube-apiserver's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, Args};
use jiff::SignedDuration;
use keelson_apiserver::authentication::AuthenticationOptions;
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
                max_expiration: most.context("--service-account-max-token-expiration is negative")?,
            },
            signing_key_file: self.service_account_signing_key_file.clone(),
            key_files: self.service_account_key_file.clone(),
            token_file: self.token_auth_file.clone(),
            bootstrap_tokens: self.enable_bootstrap_token_auth,
            request_header: self.request_header()?,
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
