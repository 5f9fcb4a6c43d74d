//! The API server: one generic registry behind authentication, authorization and admission.
