"""meshctl: one YAML file describes a private mesh, and `meshctl apply` makes it so on every host over SSH."""
