//! Tests in machines that run Debian, with its stock systemd and udev, and dm-remap installed as on any other.

mod boot;
