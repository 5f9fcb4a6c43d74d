//! Services in the kernel: nftables maps kept equal to Services and EndpointSlices.
