variable "prefix" {
  description = "The service: the tag Prefix of its instances and volumes."
  type        = string
  default     = "kafka"

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]{1,64}$", var.prefix))
    error_message = "The prefix has letters, digits, dots, dashes and underscores, at most 64."
  }
}

variable "nodes" {
  description = "The subnet of each node by NodeId: {\"0\" = \"subnet-1a\"}. A node and its volumes stay in the zone of its subnet."
  type        = map(string)

  validation {
    condition     = length(var.nodes) > 0 && alltrue([for id in keys(var.nodes) : can(regex("^[A-Za-z0-9._-]+$", id))])
    error_message = "There is a node, and a NodeId has letters, digits, dots, dashes and underscores."
  }
}

variable "sizes" {
  description = "GiB of the volumes of each node by VolumeName. complete-launch.service waits for these two sets."
  type        = object({ log = number, data = number })
  default     = { log = 20, data = 100 }
}

variable "group_per_zone" {
  description = "false: one group for all zones, each with the same number of nodes. true: a group for each zone, and you refresh one after the other."
  type        = bool
  default     = false
}

variable "image_id" {
  description = "An image with the package cloud-init-kraken."
  type        = string
}

variable "instance_type" {
  description = "A Nitro type."
  type        = string
  default     = "m6i.large"
}

variable "security_group_ids" {
  description = "Security groups of the instances."
  type        = list(string)
}

variable "heartbeat_timeout" {
  description = "Seconds that a new instance has to get a node, while the old one ends. Then the group replaces it."
  type        = number
  default     = 900

  validation {
    condition     = var.heartbeat_timeout >= 600 && var.heartbeat_timeout <= 7200
    error_message = "The old instance needs minutes to end: 600 to 7200 seconds."
  }
}

variable "warmup" {
  description = "Seconds that a node needs to catch up before the group replaces the next."
  type        = number
  default     = 300
}
