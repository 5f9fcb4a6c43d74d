//! Groups that another API server serves: a small one of the tests' own, which believes the front proxy alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use keelson_e2e::{LONG, Server, eventually};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

const GROUP: &str = "/apis/things.example.com/v1";
const NAME: &str = "v1.things.example.com";
type Stream = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

/// A request without a body.
struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> String {
        let values = self.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        values.map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(",")
    }

    fn read(stream: &mut Stream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let first = lines.next()?;
        let mut words = first.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let fields = lines.take_while(|line| !line.is_empty());
        let headers = fields
            .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect();
        Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers })
    }
}

/// What it has: each thing's event is at the index of the revision before it.
#[derive(Default)]
struct Things {
    events: Mutex<Vec<(&'static str, Value)>>,
    changed: Condvar,
    /// Whether it says that it is not well.
    ailing: Mutex<bool>,
}

impl Things {
    fn events(&self) -> MutexGuard<'_, Vec<(&'static str, Value)>> {
        self.events.lock().unwrap()
    }

    fn change(&self, kind: &'static str, name: &str) {
        let mut events = self.events();
        let version = (events.len() + 1).to_string();
        events.push((
            kind,
            json!({"kind": "Thing", "apiVersion": "things.example.com/v1", "metadata":
            {"name": name, "namespace": "default", "resourceVersion": version, "creationTimestamp": "2026-01-01T00:00:00Z"}}),
        ));
        self.changed.notify_all();
    }

    fn present(&self) -> Vec<Value> {
        let mut present: Vec<Value> = Vec::new();
        for (kind, thing) in self.events().iter() {
            present.retain(|it| it["metadata"]["name"] != thing["metadata"]["name"]);
            if *kind != "DELETED" {
                present.push(thing.clone());
            }
        }
        present
    }

    fn answer(&self, request: &Request) -> (u16, Value) {
        let things = "/apis/things.example.com/v1/namespaces/default/things";
        if *self.ailing.lock().unwrap() {
            return (500, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500}));
        }
        match request.path.as_str() {
            GROUP => (
                200,
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "things.example.com/v1",
                    "resources": [{"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing",
                        "shortNames": ["th"], "verbs": ["get", "list", "watch"]}]}),
            ),
            path if path == things => {
                let version = self.events().len().to_string();
                (
                    200,
                    json!({"kind": "ThingList", "apiVersion": "things.example.com/v1",
                        "metadata": {"resourceVersion": version}, "items": self.present()}),
                )
            }
            path => {
                let name = path.strip_prefix(things).and_then(|rest| rest.strip_prefix('/'));
                let found = self
                    .present()
                    .into_iter()
                    .find(|it| Some(it["metadata"]["name"].as_str().unwrap()) == name);
                let Some(mut thing) = found else {
                    let message = format!("{} {path} is not here", request.method);
                    return (
                        404,
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                        "message": message, "code": 404}),
                    );
                };
                thing["asked"] = json!({"user": request.header("x-remote-user"), "groups": request.header("x-remote-group"),
                    "authorization": request.header("authorization"), "impersonated": request.header("impersonate-user")});
                (200, thing)
            }
        }
    }

    /// Answers a request, and ends the connection after it.
    fn serve(&self, stream: &mut Stream) -> std::io::Result<()> {
        let Some(request) = Request::read(stream) else { return Ok(()) };
        let head = |code: u16| {
            format!("HTTP/1.1 {code} Answer\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
        };
        let parameters: Vec<&str> = request.query.split('&').collect();
        if !parameters.contains(&"watch=true") {
            let (code, body) = self.answer(&request);
            stream.write_all(format!("{}{body}", head(code)).as_bytes())?;
            stream.conn.send_close_notify();
            return stream.flush();
        }
        stream.write_all(head(200).as_bytes())?;
        stream.flush()?;
        let version = parameters.iter().find_map(|it| it.strip_prefix("resourceVersion="));
        let mut next: usize = version.and_then(|it| it.parse().ok()).unwrap_or_default();
        loop {
            let event = {
                let waiting = |events: &mut Vec<(&'static str, Value)>| events.len() <= next;
                let events = self.changed.wait_while(self.events(), waiting).unwrap();
                let (kind, object) = &events[next];
                json!({"type": kind, "object": object})
            };
            next += 1;
            stream.write_all(format!("{event}\n").as_bytes())?;
            stream.flush()?;
        }
    }
}

/// Starts the server; who has no certificate of `clients` is not answered. Answers where, and its authority.
fn extension(clients: &str, things: &Arc<Things>) -> (SocketAddr, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::from_ca_cert_pem(&authority, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["things.default.svc".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(clients.as_bytes()).unwrap()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let tls = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
    let tls = Arc::new(tls.with_single_cert(vec![certificate.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let things = Arc::clone(things);
    // They end with the process of the tests.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (tls, things) = (Arc::clone(&tls), Arc::clone(&things));
            std::thread::spawn(move || {
                let connection = rustls::ServerConnection::new(tls).unwrap();
                // Who is not the front proxy, or has gone, is not answered.
                let _ = things.serve(&mut Stream::new(connection, stream));
            });
        }
    });
    (address, authority)
}

#[test]
fn a_group_of_another_server_is_used_as_any_other_until_its_api_service_goes() {
    let server = Server::start().unwrap();
    let authority = "jsonpath={.data.requestheader-client-ca-file}";
    let told = server
        .kubectl(&["-n", "kube-system", "get", "cm", "extension-apiserver-authentication", "-o", authority])
        .unwrap();
    let things = Arc::new(Things::default());
    let (address, authority) = extension(&told, &things);
    things.change("ADDED", "anchor");
    let port = address.port();
    let file = server.data_dir().join("bundle");
    std::fs::write(&file, &authority).unwrap();
    let encoded = std::process::Command::new("base64").arg("-w0").arg(&file).output().unwrap();
    let encoded = String::from_utf8(encoded.stdout).unwrap();
    let registration = format!(
        "{{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {{name: {NAME}}}, spec: {{group: things.example.com, \
         version: v1, groupPriorityMinimum: 100, versionPriority: 10, caBundle: {encoded}, service: {{namespace: default, \
         name: things, port: {port}}}}}}}"
    );
    server.kubectl_with(&["apply", "-f", "-"], &registration).unwrap();
    let row = || -> anyhow::Result<String> {
        let table = server.kubectl(&["get", "apiservices", NAME])?;
        Ok(table.lines().nth(1).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let shows = |what: &str| {
        eventually(what, LONG, || Ok(row()?.contains(what).then_some(()))).unwrap();
    };
    shows("default/things False (ServiceNotFound)");
    let unavailable = server.kubectl_fails(&["get", "--raw", &format!("{GROUP}/namespaces/default/things")]);
    assert!(unavailable.unwrap().contains("(ServiceUnavailable)"));
    let service = "{apiVersion: v1, kind: Service, metadata: {name: things}, spec: {type: ExternalName, externalName: 127.0.0.1}}";
    server.kubectl_with(&["apply", "-f", "-"], service).unwrap();
    shows("default/things True");
    server
        .kubectl(&["wait", "--for=condition=Available", &format!("apiservice/{NAME}"), "--timeout=60s"])
        .unwrap();

    let resources = server.kubectl(&["api-resources", "--api-group=things.example.com"]).unwrap();
    let columns: Vec<&str> = resources.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(columns, ["things", "th", "things.example.com/v1", "true", "Thing"]);
    assert!(server.kubectl(&["api-versions"]).unwrap().contains("things.example.com/v1\n"));
    let table = server.kubectl(&["get", "th"]).unwrap();
    assert!(table.starts_with("NAME") && table.contains("anchor"), "{table}");
    let asked =
        ["get", "thing", "anchor", "-o", "jsonpath={.asked.user} {.asked.groups} {.asked.authorization}"];
    let who = server.kubectl(&asked).unwrap();
    assert!(who.starts_with("kubernetes-admin system:masters"), "{who}");
    let refused = server.kubectl_fails(&["get", "things", "--as", "jane"]).unwrap();
    assert!(refused.contains("User \"jane\" cannot list resource \"things\""), "{refused}");
    let role = ["create", "role", "reader", "--verb=get,list", "--resource=things.things.example.com"];
    server.kubectl(&role).unwrap();
    server.kubectl(&["create", "rolebinding", "reader", "--role=reader", "--user=jane"]).unwrap();
    let jane = server.kubectl(&[&asked[..], &["--as", "jane"]].concat()).unwrap();
    assert_eq!(jane, "jane system:authenticated ");

    let mut watch = server
        .command(&["get", "things", "-w", "--no-headers", "--output-watch-events"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(next(), "ADDED anchor");
    for (kind, name) in [("ADDED", "buoy"), ("MODIFIED", "anchor"), ("DELETED", "anchor")] {
        things.change(kind, name);
        assert_eq!(next(), format!("{kind} {name}"));
    }
    watch.kill().unwrap();
    watch.wait().unwrap();

    // It is looked at every half a minute, and whenever its Service changes.
    let ail = |ailing: bool| {
        *things.ailing.lock().unwrap() = ailing;
        server.kubectl(&["annotate", "--overwrite", "svc", "things", &format!("ailing={ailing}")]).unwrap();
    };
    ail(true);
    shows("default/things False (FailedDiscoveryCheck)");
    let unavailable = server.kubectl_fails(&["get", "--raw", &format!("{GROUP}/namespaces/default/things")]);
    assert!(unavailable.unwrap().contains("(ServiceUnavailable)"));
    // What the server serves itself is there all the while.
    assert!(server.kubectl(&["get", "cm"]).unwrap().contains("kube-root-ca.crt"));
    ail(false);
    shows("default/things True");
    server.kubectl(&["delete", "apiservice", NAME]).unwrap();
    let gone =
        server.kubectl_fails(&["get", "--raw", &format!("{GROUP}/namespaces/default/things")]).unwrap();
    assert!(gone.contains("(NotFound)"), "{gone}");
    assert!(!server.kubectl(&["api-versions"]).unwrap().contains("things.example.com"));
}
