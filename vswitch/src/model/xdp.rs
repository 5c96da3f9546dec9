//! The hooks at which frames are switched: tcx, and XDP where it is wanted.

/// Hooks chosen by `up --datapath`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// tcx on container ports; XDP on uplinks that support it.
    #[default]
    Auto,
    /// tcx (or clsact) on every port.
    Tc,
    /// Native XDP on container ports too.
    Xdp,
}

/// Use of XDP on one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xdp {
    /// tcx only.
    #[default]
    Off,
    /// Native XDP if the driver supports it and no other program uses it; `port_hooks` reports the
    /// reason if not.
    Auto,
    /// Native XDP, or an error.
    Native,
}
