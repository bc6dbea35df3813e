"""The machine that the process runs on: its CPUs, cgroups, files, signals and service manager."""
