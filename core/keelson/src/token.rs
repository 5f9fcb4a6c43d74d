//! `keelson token`: what machines join the cluster with.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::connection::{ClusterOptions, first_certificate, servers};
use crate::join_token::{BootstrapToken, JoinToken, KeyDigest, NAMESPACE, SECRET_TYPE};

const GROUPS: &str = "auth-extra-groups";

/// What a machine joins as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// A node that runs pods.
    Agent,
    /// A member of the control plane. Who has such a token can have the keys of the cluster.
    Server,
}

impl Role {
    fn group(self) -> &'static str {
        match self {
            Role::Agent => "system:bootstrappers:keelson:nodes",
            Role::Server => "system:bootstrappers:keelson:servers",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Server => "server",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it.
    Create(CreateOptions),
    /// Show the tokens there are, without their secrets.
    List {
        #[command(flatten)]
        cluster: ClusterOptions,
    },
    /// Delete tokens: nobody can join with them any more. Who has joined stays.
    Delete {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// Their ids: the six characters before the dot.
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateOptions {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// What a machine joins as.
    #[arg(long, value_enum, default_value = "agent")]
    role: Role,
    /// How long it can be used, such as `24h`; `0s` for ever.
    #[arg(long, default_value = "24h")]
    ttl: SignedDuration,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// Print the token alone.
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command.
pub(crate) async fn run(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(options) => create(&options).await,
        TokenCommand::List { cluster } => list(&cluster).await,
        TokenCommand::Delete { cluster, ids } => delete(&cluster, &ids).await,
    }
}

fn secrets(config: kube::Config) -> anyhow::Result<Api<Secret>> {
    Ok(Api::namespaced(Client::try_from(config)?, NAMESPACE))
}

fn name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// The Secret of a token.
fn secret(token: &BootstrapToken, options: &CreateOptions, now: Timestamp) -> anyhow::Result<Secret> {
    let mut data = BTreeMap::from([
        ("token-id".to_owned(), token.id.clone()),
        ("token-secret".to_owned(), token.secret().to_owned()),
        ("usage-bootstrap-authentication".to_owned(), "true".to_owned()),
        (GROUPS.to_owned(), options.role.group().to_owned()),
    ]);
    if options.ttl.is_negative() {
        bail!("--ttl is negative: give a duration such as 24h, or 0s for a token that never ends");
    }
    if !options.ttl.is_zero() {
        let end = now.checked_add(options.ttl).context("--ttl is too long")?;
        data.insert("expiration".to_owned(), format!("{end:.0}"));
    }
    if let Some(description) = &options.description {
        data.insert("description".to_owned(), description.clone());
    }
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(name(&token.id)),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        string_data: Some(data),
        ..Secret::default()
    })
}

async fn create(options: &CreateOptions) -> anyhow::Result<()> {
    let config = options.cluster.config().await?;
    let authority = config.root_cert.as_ref().and_then(|certificates| certificates.first());
    let authority = authority.context("the kubeconfig has no certificate-authority-data")?;
    let authority = KeyDigest::of(&first_certificate_of(authority)?)?;
    let asked = config.cluster_url.to_string();
    let bootstrap = BootstrapToken::random()?;
    let secret = secret(&bootstrap, options, Timestamp::now())?;
    let client = Client::try_from(config)?;
    let url = servers(&client).await?.into_iter().next().unwrap_or(asked);
    Api::<Secret>::namespaced(client, NAMESPACE)
        .create(&PostParams::default(), &secret)
        .await
        .context("keep the token in the cluster")?;
    let token = JoinToken { bootstrap, authority };
    println!("{}", token.reveal());
    if !options.quiet {
        let role = options.role.name();
        let url = url.trim_end_matches('/');
        eprintln!("\nOn the machine that joins:\n  keelson {role} --server {url} --token {}", token.reveal());
    }
    Ok(())
}

/// What a configuration holds is DER; what is written into files is PEM.
fn first_certificate_of(bytes: &[u8]) -> anyhow::Result<rustls::pki_types::CertificateDer<'static>> {
    if bytes.starts_with(b"-----") {
        return first_certificate(bytes);
    }
    Ok(bytes.to_vec().into())
}

/// A line of the list.
struct Line {
    id: String,
    role: String,
    expires: String,
    description: String,
}

fn line(secret: &Secret, now: Timestamp) -> Option<Line> {
    let text = |key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let groups = text(GROUPS).unwrap_or_default();
    let role =
        [Role::Agent, Role::Server].into_iter().find(|role| groups.split(',').any(|it| it == role.group()));
    let expires = match text("expiration").filter(|end| !end.is_empty()) {
        None => "never".to_owned(),
        Some(end) => match end.parse::<Timestamp>() {
            Ok(end) if end > now => format!("{:#}", (end - now).round(jiff::Unit::Second).ok()?),
            Ok(_) => "expired".to_owned(),
            Err(_) => "invalid".to_owned(),
        },
    };
    Some(Line {
        id: text("token-id")?,
        role: role.map_or(groups.clone(), |role| role.name().to_owned()),
        expires,
        description: text("description").unwrap_or_default(),
    })
}

async fn list(cluster: &ClusterOptions) -> anyhow::Result<()> {
    let params = ListParams::default().fields(&format!("type={SECRET_TYPE}"));
    let found = secrets(cluster.config().await?)?.list(&params).await.context("list the tokens")?;
    println!("{:<8} {:<8} {:<14} DESCRIPTION", "ID", "ROLE", "EXPIRES");
    for line in found.items.iter().filter_map(|secret| line(secret, Timestamp::now())) {
        println!("{:<8} {:<8} {:<14} {}", line.id, line.role, line.expires, line.description);
    }
    Ok(())
}

async fn delete(cluster: &ClusterOptions, ids: &[String]) -> anyhow::Result<()> {
    let api = secrets(cluster.config().await?)?;
    for id in ids {
        // Whoever copies the whole token in means this one.
        let id = id.split('.').next().unwrap_or_default();
        let deleted = api.delete(&name(id), &DeleteParams::default()).await;
        deleted.with_context(|| format!("delete the token {id}"))?;
        println!("token {id} deleted");
    }
    Ok(())
}
