"""What survives crashes, power loss, full disks, signals and second writers, each beside a control that must not."""
