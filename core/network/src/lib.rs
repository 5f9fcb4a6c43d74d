//! Pod networking: the CNI plugin, its address management, the bridge and the overlay.
