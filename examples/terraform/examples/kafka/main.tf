# The cluster of the README: three nodes in three zones, each with a log volume and
# three data volumes in RAID 0.

terraform {
  required_version = ">= 1.3"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80"
    }
  }
}

provider "aws" {
  region = var.region
}

variable "region" {
  type    = string
  default = "us-east-1"
}

variable "image_id" {
  description = "An image with the package cloud-init-kraken (see examples/image)."
  type        = string
}

variable "subnet_ids" {
  description = "Three subnets, one a zone."
  type        = list(string)
}

module "kafka" {
  source = "../.."

  prefix   = "kafka"
  image_id = var.image_id

  nodes = {
    "0" = { subnet_id = var.subnet_ids[0] }
    "1" = { subnet_id = var.subnet_ids[1] }
    "2" = { subnet_id = var.subnet_ids[2] }
  }

  sets = {
    log = {
      size       = 20
      mount_path = "/krkn_log"
    }
    data = {
      size       = 100
      members    = 3
      raid_level = "0"
      fs_type    = "xfs"
      mount_path = "/krkn_data"
      owner      = "kafka"
      group      = "kafka"
      mode       = "0750"
    }
  }

  user_data = [{
    content = <<-EOT
      #cloud-config
      users:
        - default
        - name: kafka
          system: true
          no_create_home: true
    EOT
  }]

  tags = { Team = "streaming" }
}

output "instances" {
  value = module.kafka.instances
}
