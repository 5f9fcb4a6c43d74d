//! The API server: one generic registry behind authentication, authorization and admission.
//!
//! | module | what it does |
//! |---|---|
//! | [`request_info`], [`identity`] | what is asked, and by whom |
//! | [`cache`] | what the store holds, ready to be listed and watched |
//! | [`registry`] | reads and writes objects of every resource by the same rules |

pub mod cache;
pub mod identity;
pub mod request_info;

pub use identity::Identity;
pub use request_info::RequestInfo;
