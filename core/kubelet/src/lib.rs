//! The node agent: makes the node run the pods that are bound to it, through the Container Runtime Interface.
