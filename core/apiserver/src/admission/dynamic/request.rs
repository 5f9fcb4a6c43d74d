//! A write as webhooks and policies see it: the request as it came in, and its objects in the version that they want.

use std::sync::Arc;

use keelson_api::admission::{Asked, MatchResources, Operation, Request, Subject};
use keelson_api::{Catalog, GroupResource, GroupVersionKind, Object, ResourceInfo, Status, convert};
use serde_json::{Map, Value, json};

use keelson_api::selector::Labels;

use crate::admission::Attributes;
use crate::registry::{Registry, Target, scale, strategy};

/// A write, and through which versions it may be seen.
pub struct Seen<'a> {
    registry: &'a Registry,
    attributes: &'a Attributes<'a>,
    /// The request as it came in.
    pub asked: Asked<'a>,
    /// The kind that it speaks.
    pub asked_kind: GroupVersionKind,
    /// `UserInfo`.
    pub user: Value,
    /// The options of the operation; null for a connection.
    pub options: Value,
    equivalents: Vec<Subject<'a>>,
    catalog: &'a Catalog,
}

/// The version in which somebody wants to see a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// The resource.
    pub subject: Subject<'a>,
    /// The kind of the documents.
    pub kind: GroupVersionKind,
    /// The resource's own version, for objects that are whole.
    whole: GroupVersionKind,
}

/// What the documents of a write are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The object itself.
    Whole,
    /// Its number of replicas.
    Scale,
    /// Something that is carried out, such as a Binding.
    Other,
}

impl<'a> Seen<'a> {
    /// Looks at a write. The catalog is the one of the request.
    pub fn new(registry: &'a Registry, catalog: &'a Catalog, attributes: &'a Attributes<'a>) -> Self {
        let resource = attributes.resource;
        let served = attributes.options.served.clone().unwrap_or_else(|| resource.gvk());
        let own = resource.group == served.group && resource.version == served.version;
        let equal = |it: &&Arc<ResourceInfo>| {
            it.plural == resource.plural
                && convert::storage_resource(it) == convert::storage_resource(resource)
        };
        let subject =
            |it: &'a ResourceInfo| Subject { group: &it.group, version: &it.version, resource: &it.plural };
        let known = catalog.resources().iter().filter(equal);
        let equivalents: Vec<Subject<'a>> = known.map(|it| subject(it)).collect();
        let found = catalog.find(&served.group, &served.version, &resource.plural).filter(|_| !own);
        let asked_resource: &'a ResourceInfo = found.map_or(resource, |it| it);
        let is_namespace = resource.group.is_empty() && resource.plural == "namespaces";
        let name = attributes.name;
        let asked = Asked {
            operation: attributes.operation,
            subject: subject(asked_resource),
            subresource: attributes.subresource,
            namespace: if is_namespace { Some(name) } else { attributes.namespace },
            name,
        };
        let asked_kind = kind_of(asked_resource, attributes.subresource);
        let (user, options) = (user(attributes), options(attributes));
        Seen { registry, attributes, asked, asked_kind, user, options, equivalents, catalog }
    }

    /// The version in which a webhook or policy is to see the write; `None` if it is not about it.
    pub fn view(
        &self,
        matches: &MatchResources,
        object: Option<&Object>,
    ) -> Result<Option<View<'a>>, Status> {
        let Some(subject) = matches.subject(&self.asked, &self.equivalents) else { return Ok(None) };
        if !self.is_selected(matches, object)? {
            return Ok(None);
        }
        let found = self.catalog.find(subject.group, subject.version, subject.resource);
        let resource = found.map_or(self.attributes.resource, |it| it);
        let kind = kind_of(resource, self.attributes.subresource);
        Ok(Some(View { subject, kind, whole: resource.gvk() }))
    }

    /// Whether a policy's binding is about the write, of which the policy is. Without rules of its own it is.
    pub fn is_bound(&self, matches: &MatchResources, object: Option<&Object>) -> Result<bool, Status> {
        if matches.has_rules() {
            return self.view(matches, object).map(|view| view.is_some());
        }
        Ok(!matches.excludes(&self.asked, &self.equivalents) && self.is_selected(matches, object)?)
    }

    fn is_selected(&self, matches: &MatchResources, object: Option<&Object>) -> Result<bool, Status> {
        Ok(matches.selects_object(self.labels_of(object), self.labels_of(self.attributes.old))
            && (self.asked.namespace.is_none()
                || matches.selects_namespace(|| self.namespace_labels(object))?))
    }

    /// Labels of an object that has metadata.
    fn labels_of<'o>(&self, object: Option<&'o Object>) -> Option<Option<&'o Map<String, Value>>> {
        let object = object
            .filter(|_| self.form() != Form::Other || self.attributes.operation != Operation::Connect)?;
        object.metadata().map(|_| object.labels())
    }

    fn namespace_labels(&self, object: Option<&Object>) -> Result<Option<Map<String, Value>>, Status> {
        let Some(name) = self.asked.namespace else { return Ok(None) };
        let is_namespace = self.attributes.is_of("", "namespaces");
        if let Some(object) = object.filter(|_| is_namespace && self.attributes.is_write()) {
            return Ok(object.labels().cloned());
        }
        let namespaces = GroupResource::new("", "namespaces");
        let found = self.registry.resource(&namespaces).get(name);
        let found = found.ok_or_else(|| Status::not_found(&namespaces, name))?;
        Ok(found.labels.as_ref().map(Labels::to_map))
    }

    fn form(&self) -> Form {
        match self.attributes.subresource {
            "scale" => Form::Scale,
            _ if self.asked_kind.kind == self.attributes.resource.kind => Form::Whole,
            _ => Form::Other,
        }
    }

    /// The new state in a version; null for a deletion.
    pub async fn document(&self, object: Option<&Object>, view: &View<'_>) -> Result<Value, Status> {
        let Some(object) = object.filter(|object| !object.0.is_empty()) else { return Ok(Value::Null) };
        match self.form() {
            Form::Scale => scale::scale_of(self.attributes.resource, object),
            Form::Other => Ok(object.clone().into_value()),
            Form::Whole => {
                let resource = self.attributes.resource;
                let mut object = self.registry.in_version(resource, object.clone(), &view.whole).await?;
                convert::convert(&mut object, &view.whole);
                Ok(object.into_value())
            }
        }
    }

    /// The request itself, as expressions see it.
    pub fn request(&self, view: &View<'_>) -> Map<String, Value> {
        let request = Request {
            uid: "",
            asked: &self.asked,
            asked_kind: &self.asked_kind,
            subject: view.subject,
            kind: &view.kind,
            user: &self.user,
            object: &Value::Null,
            old: &Value::Null,
            options: &self.options,
            dry_run: self.attributes.dry_run,
        };
        request.document()
    }

    /// The old state in a version; null where there is none.
    pub async fn old(&self, view: &View<'_>) -> Result<Value, Status> {
        self.document(self.attributes.old, view).await
    }

    /// Takes a changed document as the new state: in the stored version, with defaults, and without what a writer may
    /// not set.
    pub async fn take(&self, object: &mut Object, changed: Value, view: &View<'_>) -> Result<(), Status> {
        let mut new = Object::from_value(changed).map_err(Status::internal)?;
        if new.gvk() != view.kind {
            let text = format!("the kind of the object was changed from {:?} to {:?}", view.kind, new.gvk());
            return Err(Status::internal(text));
        }
        match self.form() {
            Form::Scale => {
                if let Some(replicas) = scale::wanted(&new)? {
                    scale::set(self.attributes.resource, object, replicas);
                }
            }
            Form::Other => *object = new,
            Form::Whole => {
                self.read(&mut new, view).await?;
                self.settle(&mut new, object)?;
                *object = new;
            }
        }
        Ok(())
    }

    /// Reads a document as one that a client has sent.
    async fn read(&self, new: &mut Object, view: &View<'_>) -> Result<(), Status> {
        let resource = self.attributes.resource;
        let found = self.catalog.find(view.subject.group, view.subject.version, view.subject.resource);
        let seen = found.map_or(resource, |it| it);
        if let Some(schema) = seen.schema() {
            let mut document = Value::Object(std::mem::take(&mut new.0));
            let fault = match seen.custom {
                None => schema.decode_error(&document),
                Some(_) => schema
                    .field("metadata")
                    .and_then(|metadata| metadata.decode_error(document.get("metadata")?)),
            };
            if let Some(fault) = fault {
                return Err(Status::internal(fault));
            }
            schema.prune(&mut document);
            *new = Object::from_value(document).map_err(Status::internal)?;
        }
        if let Some(custom) = &seen.custom {
            custom.apply_defaults(new);
        }
        let worked_with = convert::storage_kind(resource);
        *new = self.registry.in_version(resource, std::mem::take(new), &worked_with).await?;
        convert::convert(new, &worked_with);
        Ok(())
    }

    /// Brings a new state into the form in which plugins find it.
    fn settle(&self, new: &mut Object, before: &Object) -> Result<(), Status> {
        let attributes = self.attributes;
        if new.namespace().filter(|own| !own.is_empty()) != attributes.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let target = Target {
            resource: Arc::new(attributes.resource.clone()),
            namespace: attributes.namespace.map(str::to_owned),
            name: attributes.name.to_owned(),
            subresource: attributes.subresource.to_owned(),
        };
        if !new.managed_fields().iter().all(is_entry) {
            new.set_managed_fields(before.managed_fields().to_vec());
        }
        match attributes.old {
            Some(old) => strategy::before_update(&target, new, old),
            None => {
                for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
                    match before.get(&["metadata", field]) {
                        Some(value) => new.set(&["metadata", field], value.clone()),
                        None => drop(new.remove(&["metadata", field])),
                    }
                }
                strategy::before_create(attributes.resource, new);
            }
        }
        if attributes.resource.custom.is_none() {
            strategy::settle(attributes.resource, attributes.subresource, new);
        } else {
            keelson_api::defaults::settle_metadata(new);
        }
        Ok(())
    }
}

/// Whether an entry of managed fields has the form of one.
fn is_entry(entry: &Value) -> bool {
    entry["operation"].is_string() && entry["apiVersion"].is_string() && entry["fieldsType"] == "FieldsV1"
}

/// The kind that a resource speaks, through a subresource or not.
fn kind_of(resource: &ResourceInfo, subresource: &str) -> GroupVersionKind {
    resource.subresource(subresource).map_or_else(|| resource.gvk(), |it| it.kind.clone())
}

fn user(attributes: &Attributes<'_>) -> Value {
    let who = attributes.identity;
    let mut user = json!({"username": who.username, "groups": who.groups});
    if let Some(uid) = &who.uid {
        user["uid"] = uid.as_str().into();
    }
    if !who.extra.is_empty() {
        user["extra"] = json!(who.extra);
    }
    user
}

fn options(attributes: &Attributes<'_>) -> Value {
    let kind = match attributes.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if attributes.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    if attributes.is_write() && !attributes.options.manager.is_empty() {
        options["fieldManager"] = attributes.options.manager.as_str().into();
    }
    options
}
