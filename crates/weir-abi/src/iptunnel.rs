//! What `weir iptunnel` shares with its BPF program: the maps of the Linux sample, byte for byte.
