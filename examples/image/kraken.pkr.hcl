# packer init . && packer build -var package=cloud-init-kraken_0.1.0_all.deb .

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
  description = "The Debian package (make deb)."
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
    destination = "/tmp/cloud-init-kraken.deb"
  }

  provisioner "file" {
    source      = "${path.root}/../image-defaults.cfg"
    destination = "/tmp/image-defaults.cfg"
  }

  provisioner "shell" {
    script          = "${path.root}/build.sh"
    execute_command = "sudo sh '{{ .Path }}' /tmp/cloud-init-kraken.deb /tmp/image-defaults.cfg"
  }
}
