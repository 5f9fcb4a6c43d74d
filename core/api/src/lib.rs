//! The Kubernetes object model: kinds, schemas, patches, defaults, validation and table columns, without IO.
//!
//! - [`object`]: an object is a JSON document; accessors for its metadata, and its one encoding.
//! - [`document`]: documents read from any format, with bounded work.
//! - [`kinds`], [`catalog`]: names of kinds and resources, and every resource that is built in.
//! - [`convert`]: one stored object, several served versions.
//! - [`schema`]: the fields of a kind; unknown fields, pruning, structural validation, list and map types.
//! - [`custom_resource`]: CustomResourceDefinitions, and the kinds that they define.
//! - [`names`], [`quantity`], [`selector`]: the small languages inside objects.
//! - [`quality_of_service`]: a pod's class; [`pod_references`]: what a pod refers to.
//! - [`patch`]: JSON patch, merge patch and strategic merge patch.
//! - [`apply`]: server-side apply, and who manages which field.
//! - [`defaults`], [`validation`]: what the server fills in, and what it refuses.
//! - [`admission`]: which requests webhooks and policies are about, and what is said between them and the server.
//! - [`audit`]: which requests are recorded, and how much of them.
//! - [`warnings`]: what is accepted, and still worth a word.
//! - [`flow_control`]: the flow schemas and priority levels that every cluster has.
//! - [`protobuf`]: documents in Kubernetes' binary encoding.
//! - [`table`]: what kubectl prints.
//! - [`openapi`]: documents of all that.
//! - [`status`]: the answer when something failed.

pub mod admission;
pub mod apply;
pub mod audit;
pub mod catalog;
pub mod convert;
pub mod custom_resource;
pub mod defaults;
pub mod document;
pub mod duration;
pub mod flow_control;
pub mod kinds;
pub mod limits;
pub mod names;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod pod_references;
pub mod pod_security;
pub mod protobuf;
pub mod quality_of_service;
pub mod quantity;
pub mod quota;
pub mod resource_list;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod validation;
pub mod warnings;

pub use catalog::Catalog;
pub use kinds::{GroupResource, GroupVersion, GroupVersionKind, ResourceInfo, SubresourceInfo};
pub use object::Object;
pub use schema::Schema;
pub use status::Status;
