# packer init . && packer build -var package=cloud-init-kraken_0.1.0_all.deb .
#
# For Amazon Linux or RHEL take another source_ami_filter and ssh_username, and the
# RPM: build.sh knows by the file's name what to do. It fails unless cloud-init will
# run the module ("cc-kraken enable --check").

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2"
    }
  }
}

variable "package" {
  type        = string
  description = "The package: .deb (make deb) or .rpm (packaging/build-rpm)."
}

variable "region" {
  type    = string
  default = "us-east-1"
}

source "amazon-ebs" "debian" {
  region        = var.region
  instance_type = "t3.small"
  ssh_username  = "admin"
  ami_name      = "debian-12-kraken-{{timestamp}}"
  ena_support   = true

  source_ami_filter {
    filters = {
      name                = "debian-12-amd64-*"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    owners      = ["136693071363"] # Debian's account
    most_recent = true
  }
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "file" {
    source      = var.package
    destination = "/tmp/${basename(var.package)}"
  }

  provisioner "file" {
    source      = "${path.root}/../image-defaults.cfg"
    destination = "/tmp/image-defaults.cfg"
  }

  provisioner "shell" {
    script          = "${path.root}/build.sh"
    execute_command = "sudo sh '{{ .Path }}' /tmp/${basename(var.package)} /tmp/image-defaults.cfg"
  }
}
