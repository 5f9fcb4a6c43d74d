//! Built-in kinds, through the whole server in one process: authorization, admission, registry, store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admission;
mod aggregation;
mod apply;
mod harness;
mod hook_server;
mod https;

mod audit;
mod authentication;
mod bad_input;
mod certificates;
mod conversion;
mod custom_resources;
mod definition_ends;
mod devices;
mod discovery;
mod events;
mod field_validation;
mod flow_control;
mod impersonation;
mod insight;
mod kind_rules;
mod lists;
mod mutating_policies;
mod nodes;
mod outside;
mod pod_rules;
mod pods;
mod policies;
mod protobuf;
mod protocol;
mod proxying;
mod roles;
mod services;
mod several;
mod strategies;
mod validation_rules;
mod watches;
mod webhooks;
mod workloads;
