variable "servers" {
  description = "How many nodes."
  type        = number
  default     = 3
}

variable "prefix" {
  description = "The service: the tag Prefix of its instances and volumes."
  type        = string
  default     = "kafka"
}

variable "image_id" {
  description = "An image with the package cloud-init-kraken (see ../image)."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets, one a zone. Node i and its volumes live in the i-th, again from the first."
  type        = list(string)
}

variable "security_group_ids" {
  type    = list(string)
  default = []
}

variable "instance_type" {
  description = "A Nitro type (volumes are NVMe disks there)."
  type        = string
  default     = "m6i.large"
}

variable "log_size" {
  description = "GiB of the log volume."
  type        = number
  default     = 20
}

variable "data_size" {
  description = "GiB of each data volume."
  type        = number
  default     = 100
}
