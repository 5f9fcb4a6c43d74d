//! A small encoder and decoder for nftables over netlink.
