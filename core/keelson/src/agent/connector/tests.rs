use keelson_apiserver::pki::Pki;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// A server whose certificate shows a name and no address, and that answers everything with one text. How it is reached.
async fn server(pki: &Pki, name: &str, answer: &'static str) -> (String, JoinHandle<()>) {
    let (chain, key) = pki.new_serving(name, &[name.to_owned()], &[]).unwrap().to_der().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                if stream.write_all(text.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    (url, task)
}

fn authority(pki: &Pki) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pki.authority().as_bytes()).unwrap()
}

async fn ask(client: &kube::Client) -> Result<String, kube::Error> {
    client.request_text(Request::get("/version").body(Vec::new()).unwrap()).await
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_passed_over_and_the_next_one_asked() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let (url, task) = server(&pki, COMMON_NAME, "first").await;
    let (other, _other) = server(&pki, COMMON_NAME, "other").await;
    let file = dir.path().join("servers");
    std::fs::write(&file, format!("{url}\n{other}\n")).unwrap();
    let servers = Servers::open(file, "https://127.0.0.1:1").unwrap();
    let client = client(Arc::clone(&servers), tls(authority(&pki), None).unwrap(), None).unwrap();
    let first = ask(&client).await.unwrap();
    assert!(["first", "other"].contains(&first.as_str()));
    servers.connected(&url);
    servers.reconnect();
    assert_eq!(ask(&client).await.unwrap(), "first");
    task.abort();
    let _ = task.await;
    servers.reconnect();
    assert_eq!(ask(&client).await.unwrap(), "other");
    assert_eq!(servers.in_order()[0], other);
}

#[tokio::test]
async fn neither_another_authority_nor_another_name_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path().join("own")).unwrap();
    let stranger = Pki::open(dir.path().join("stranger")).unwrap();
    for (pki_of_server, name) in [(&stranger, COMMON_NAME), (&pki, "node-1")] {
        let (url, _task) = server(pki_of_server, name, "no").await;
        let client = client(Servers::only(&url), tls(authority(&pki), None).unwrap(), None).unwrap();
        let error = ask(&client).await.unwrap_err();
        let mut chain = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            chain.push_str(&error.to_string());
            cause = error.source();
        }
        assert!(chain.contains("invalid peer certificate"), "{chain}");
    }
}
