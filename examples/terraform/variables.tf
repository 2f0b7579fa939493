variable "prefix" {
  description = "The service: the tag Prefix of its instances and volumes."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]{1,64}$", var.prefix))
    error_message = "The prefix has letters, digits, dots, dashes and underscores, at most 64."
  }
}

variable "nodes" {
  description = "The nodes by NodeId. A node and its volumes stay in the zone of its subnet."
  type = map(object({
    subnet_id     = string
    instance_type = optional(string)
    private_ip    = optional(string)
    tags          = optional(map(string), {})
  }))

  validation {
    condition     = alltrue([for id in keys(var.nodes) : can(regex("^[A-Za-z0-9._-]+$", id))])
    error_message = "A NodeId has letters, digits, dots, dashes and underscores."
  }
}

variable "sets" {
  description = <<-EOT
    The sets of volumes of every node, by VolumeName. size is GiB of each member.
    members is how many volumes the set has; more than one need raid_level.
    The other keys are the tags of a volume, and what EC2 knows of one.
  EOT
  type = map(object({
    size    = number
    members = optional(number, 1)

    raid_level    = optional(string)
    fs_type       = optional(string, "ext4")
    mount_path    = optional(string)
    mount_options = optional(string)
    mkfs_options  = optional(string)
    owner         = optional(string)
    group         = optional(string)
    mode          = optional(string)
    label         = optional(string)

    type        = optional(string, "gp3")
    iops        = optional(number)
    throughput  = optional(number)
    encrypted   = optional(bool, true)
    kms_key_arn = optional(string)
    tags        = optional(map(string), {})
  }))

  validation {
    condition     = length(var.sets) > 0
    error_message = "A node without sets needs no cc_kraken: name at least one."
  }
  validation {
    condition     = alltrue([for name in keys(var.sets) : can(regex("^[A-Za-z0-9._-]+$", name))])
    error_message = "A VolumeName has letters, digits, dots, dashes and underscores."
  }
  validation {
    condition     = alltrue([for set in values(var.sets) : set.members >= 1 && set.members <= 128])
    error_message = "A set has 1 to 128 members. (size is GiB, members counts volumes.)"
  }
  validation {
    condition     = alltrue([for set in values(var.sets) : set.members == 1 || set.raid_level != null])
    error_message = "A set of several members needs raid_level: 0, 1, 5, 6 or 10."
  }
  validation {
    condition     = alltrue([for set in values(var.sets) : (set.fs_type == "none") == (set.mount_path == null)])
    error_message = "A set has mount_path, or fs_type \"none\": attached and assembled only."
  }
}

variable "image_id" {
  description = "An image with the package cloud-init-kraken. Another image replaces the instances."
  type        = string
}

variable "instance_type" {
  description = "A Nitro type (volumes are NVMe disks there), for nodes that name none."
  type        = string
  default     = "m6i.large"
}

variable "security_group_ids" {
  description = "Security groups of the instances; none: the default group of the VPC."
  type        = list(string)
  default     = null
}

variable "key_name" {
  description = "The key pair for SSH."
  type        = string
  default     = null
}

variable "iam_instance_profile" {
  description = "An instance profile of yours, with the policy of examples/iam-policy.json. null: the module makes one."
  type        = string
  default     = null
}

variable "permissions_boundary" {
  description = "ARN of the policy that bounds the role which the module makes."
  type        = string
  default     = null
}

variable "kraken" {
  description = "More of the section \"kraken\" of user-data, above the tags: {volumes = {data = {required = true}}}."
  type        = any
  default     = {}
}

variable "user_data" {
  description = "Your own parts of user-data. cloud-config is merged with the module's: its lists are joined."
  type = list(object({
    content      = string
    content_type = optional(string, "text/cloud-config")
    filename     = optional(string)
  }))
  default = []
}

variable "root_volume" {
  description = "The root volume, which goes with the instance."
  type = object({
    size        = optional(number)
    type        = optional(string, "gp3")
    kms_key_arn = optional(string)
  })
  default = {}
}

variable "tag_namespace" {
  description = "What stands before the colon of each tag."
  type        = string
  default     = "KRKN-IN"
}

variable "tags" {
  description = "More tags for all that the module makes. With a / or a space in its key, the instance would not start: it shows its tags to itself."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in keys(var.tags) : can(regex("^[A-Za-z0-9+=.,_:@-]+$", key))])
    error_message = "EC2 refuses these characters in the keys of tags that an instance can read."
  }
}
